"""From an engine's lookups to the problems of bo_tune's kernels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bo_tune.core.problem import MOST, MOST_SLICES, Experts, LoraProblem
from bo_tune.core.surroundings import MOE_KERNELS
from bo_tune.engines.models.problems import EXPAND, SHRINK, lookup_of
from bo_tune.engines.vllm.observed import names
from bo_tune.engines.vllm.observed.reading import Launch, LookupLine, Observed
from bo_tune.errors import InputError

KERNEL_OF = {"shrink": SHRINK, "expand": EXPAND, **{name: name for name in MOE_KERNELS}}
"""The kernel of each op type in vLLM's lookups."""

DEFAULT_DTYPE = "bfloat16"

MOST_EXPERT_SLICES = 2
"""Most slices of w13: gate and up."""

Size = Annotated[int, Field(ge=1, le=MOST)]


class _Arguments(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Lora(_Arguments):
    """The arguments of vLLM's ``get_lora_op_configs``, by its own names. ``batch`` is m."""

    op_type: Literal[
        "shrink", "expand", "fused_moe_lora_w13_shrink", "fused_moe_lora_w13_expand", "fused_moe_lora_w2_shrink",
        "fused_moe_lora_w2_expand",
    ]  # fmt: skip
    max_loras: Size
    batch: Size
    hidden_size: Size
    rank: Size
    num_slices: Annotated[int, Field(ge=1, le=MOST_SLICES)]
    add_inputs: bool | None = None
    moe_intermediate_size: Size | None = None


class _Untuned(_Arguments):
    """The arguments of vLLM's ``try_get_optimal_moe_lora_config``."""

    op_type: Literal[
        "fused_moe_lora_w13_shrink", "fused_moe_lora_w13_expand", "fused_moe_lora_w2_shrink", "fused_moe_lora_w2_expand"
    ]
    rank: Size
    M: Size


@dataclass(frozen=True, slots=True)
class Family:
    """Lookups that differ only in m.

    Attributes:
        problem: one of their problems; its m has no meaning.
        counts: number of lookups by m.
    """

    problem: LoraProblem
    counts: Mapping[int, int]

    def at(self, ms: Iterable[int]) -> list[LoraProblem]:
        """Return the problems at the given m."""
        return [replace(self.problem, m=m) for m in ms]


def families(observed: Observed) -> list[Family]:
    """Return an engine's lookups of adapters, grouped into families that differ only in m.

    Raises:
        InputError: a lookup does not belong to a known kernel, or its sizes cannot be found.
    """
    known: dict[tuple[object, ...], Launch] = {}
    found: dict[tuple[object, ...], tuple[LoraProblem, dict[int, int]]] = {}
    for line in observed.of_kind(names.LORA, names.UNTUNED_LORA):
        launch = _launch(line, known)
        try:
            problem = _problem(line, launch)
        except (ValueError, LookupError, ZeroDivisionError) as error:
            what = "sizes are missing" if isinstance(error, LookupError) else str(error).splitlines()[0]
            raise InputError(
                f"{observed.source}: bo_tune cannot use this lookup: {what}: {dict(line.arguments)}"
            ) from None
        _, counts = found.setdefault(lookup_of(replace(problem, m=1)), (problem, {}))
        counts[problem.m] = counts.get(problem.m, 0) + line.count
    return [Family(problem, counts) for problem, counts in _joined(list(found.values()))]


def _launch(line: LookupLine, known: dict[tuple[object, ...], Launch]) -> Launch:
    """Return the launch of a lookup. Only the first lookup of its kind describes it."""
    sizes = {name: value for name, value in line.arguments.items() if name not in ("batch", "M")}
    family = (line.lookup, *((name, repr(value)) for name, value in sorted(sizes.items())))
    if line.launch is not None:
        known.setdefault(family, line.launch)
    return known.get(family, Launch())


def _problem(line: LookupLine, launch: Launch) -> LoraProblem:
    """Return the problem of a lookup. Raises ValueError, LookupError, ZeroDivisionError."""
    if line.lookup == names.UNTUNED_LORA:
        return _untuned_problem(_Untuned.model_validate(line.arguments), launch)
    asked = _Lora.model_validate(line.arguments)
    kernel, dtype = KERNEL_OF[asked.op_type], launch.dtype or DEFAULT_DTYPE
    if kernel in MOE_KERNELS:
        if asked.moe_intermediate_size is None:
            raise LookupError("moe_intermediate_size")
        sizes = asked.max_loras, asked.num_slices, asked.batch, asked.rank, asked.hidden_size
        return _expert_problem(kernel, sizes, asked.moe_intermediate_size, launch)
    k, n = (asked.hidden_size, asked.rank) if kernel == SHRINK else (asked.rank, asked.hidden_size)
    widths = tuple(shape[-2] for shape in launch.shapes.get("lora_b_weights", ())) if kernel == EXPAND else ()
    return LoraProblem(
        # The dense kernels ask for one slot more than the engine has adapters: that of no adapter.
        kernel, asked.max_loras - 1, asked.num_slices, asked.batch, k, n, dtype=dtype, slice_sizes=widths,
        add_inputs=asked.add_inputs,
    )  # fmt: skip


def _untuned_problem(asked: _Untuned, launch: Launch) -> LoraProblem:
    """Return the problem that an engine would look up if it had a folder of tuned files."""
    a, b = launch.shapes["lora_a_stacked"][0], launch.shapes["lora_b_stacked"][0]
    is_w13 = "w13" in asked.op_type
    hidden = launch.shapes["x" if is_w13 else "y"][0][-1]
    slices, i = (launch.num_slices or 1, b[-2]) if is_w13 else (1, a[-1])
    if launch.max_loras is None:
        raise LookupError("max_loras")
    sizes = launch.max_loras, slices, asked.M, asked.rank, hidden
    return _expert_problem(asked.op_type, sizes, i, launch)


def _expert_problem(kernel: str, sizes: tuple[int, int, int, int, int], i: int, launch: Launch) -> LoraProblem:
    """Return the problem of one of the experts' kernels.

    Args:
        sizes: max_loras, num_slices, m, k, n.
    """
    _, slices, _, rank, _ = sizes
    most = MOST_EXPERT_SLICES if "w13" in kernel else 1
    if slices > most:
        raise ValueError(f"num_slices: expected at most {most}, got {slices}")
    return LoraProblem(kernel, *sizes, i, dtype=launch.dtype or DEFAULT_DTYPE, experts=_experts(kernel, rank, launch))


def _experts(kernel: str, rank: int, launch: Launch) -> Experts:
    """Return the experts of a launch, from its adapters' shapes: slots, experts, width, length."""
    a, b = launch.shapes["lora_a_stacked"][0], launch.shapes["lora_b_stacked"][0]
    everywhere = launch.shapes.get("expert_map", [[a[1]]])[0][0]
    shards = b[-1] // rank if "w13" in kernel else launch.shapes["y"][0][-1] // b[-2]
    if launch.top_k is None:
        raise LookupError("top_k")
    return Experts(everywhere, launch.top_k, a[1], max(1, shards))


Counted = tuple[LoraProblem, dict[int, int]]


def _joined(found: Sequence[Counted]) -> list[Counted]:
    """Return the lookups. For experts, combine what w13 and w2 tell of each other.

    Only w13's launch knows the number of experts on all ranks. Gate and up are one tensor if w13's only slice is twice
    as wide as w2's input.
    """
    w13 = [problem for problem, _ in found if _is_w13(problem)]
    w2_widths = {(_layer(problem), problem.i) for problem, _ in found if problem.experts and not _is_w13(problem)}
    experts: dict[tuple[object, int], Experts] = {}
    for problem in w13:
        layer, i = _layer(problem), problem.i or 0
        packed = problem.num_slices == 1 and (layer, i) not in w2_widths and (layer, i // 2) in w2_widths and not i % 2
        if problem.experts:
            experts[layer, i // 2 if packed else i] = replace(problem.experts, packed=packed)
    there = [(problem, experts.get((_layer(problem), _width(problem, experts))), counts) for problem, counts in found]
    return [(replace(problem, experts=known) if known else problem, counts) for problem, known, counts in there]


def _is_w13(problem: LoraProblem) -> bool:
    return "_w13_" in problem.kernel


def _layer(problem: LoraProblem) -> tuple[object, ...]:
    """Return a key that the lookups of one layer's experts share."""
    experts = problem.experts
    return (problem.max_loras, problem.n, experts and (experts.top_k, experts.local, experts.shards))


def _width(problem: LoraProblem, experts: Mapping[tuple[object, int], Experts]) -> int:
    """Return the width of w2's input in the layer of a problem."""
    i = problem.i or 0
    return i if not _is_w13(problem) or (_layer(problem), i) in experts else i // 2
