"""A model's lookups from the installed vLLM: its own LoRA manager is asked, in a separate process.

That process runs ``kernels.vllm.wrapped``. Neither vLLM nor torch is imported here.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bo_tune.core.surroundings import MOE_KERNELS
from bo_tune.engines.models.architectures.fields import read_object
from bo_tune.engines.models.architectures.modules import NEVER_CALLED
from bo_tune.engines.models.architectures.moe import MoeShape
from bo_tune.engines.models.hub import download_config
from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.models.shape import CONFIG_FILE, ModelShape, served_dtype
from bo_tune.errors import ModelError, UnknownArchitectureError, one_line
from bo_tune.processes.interpreter import python_command

MODULE = "bo_tune.kernels.vllm.wrapped"

DEADLINE_S = 900.0
"""Time to import vLLM and build a model without its weights."""

NOT_INSTALLED = "ModuleNotFoundError: No module named 'vllm'"

MOST_TOLD = 3
"""Most differences in a note. Any others are only counted."""

EXPERT_SIZES = ("slices", "k13", "k2", "hidden", "i13", "i2", "count", "local", "top_k")

Wrapped = tuple[str, tuple[int, ...]]
"""A module's full name, with ``*`` for numbers; and its number of slices, k and n of shrink, and widths of expand."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The layers of a model that vLLM's LoRA manager wraps, on one rank.

    Attributes:
        version: version of vLLM.
        layers: all layers except experts, as ``kernels.vllm.wrapped`` describes them.
        experts: the experts, likewise; None for none.
    """

    version: str
    layers: Sequence[Mapping[str, Any]]
    experts: Mapping[str, Any] | None

    @property
    def expert_sizes(self) -> tuple[int, ...] | None:
        """Sizes of the experts, in the order of ``EXPERT_SIZES``; None for none."""
        return None if self.experts is None else tuple(self.experts[name] for name in EXPERT_SIZES)

    @property
    def wrapped(self) -> set[Wrapped]:
        """The modules except experts."""
        return {
            (one["name"], (len(one["widths"]), one["shrink_k"], one["shrink_n"], *one["widths"])) for one in self.layers
        }

    def held(self, rank: int) -> tuple[LoraLayer, ...]:
        """Return the layers that are called. ``rank`` is the rank that vLLM was asked about."""
        return tuple(
            LoraLayer(
                _label(one["name"]),
                one["shrink_k"] or None,
                tuple(one["widths"]),
                shrink_shards=rank // one["shrink_n"] if one["shrink_n"] else 1,
                per_sequence=one["per_sequence"],
                dual_stream_adds=tuple(one["adds"]),
            )
            for one in self.layers
            if one["name"].rpartition(".")[2] not in NEVER_CALLED
        )

    def moe(self, tensor_parallel: int) -> MoeShape | None:
        """Return the experts, not sharded."""
        if self.experts is None:
            return None
        told = self.experts
        divided = tensor_parallel if told["local"] == told["count"] else 1
        packed = told["slices"] == 1 and told["i13"] == 2 * told["i2"]
        return MoeShape(
            told["count"],
            told["top_k"],
            told["i2"] * divided,
            told["hidden"],
            gated=packed or told["slices"] == 2,
            packed=packed,
        )


def derived(*, relative_to: Path = Path(), **said: Any) -> ModelStudy:
    """Return a model as it is served, with layers from the installed vLLM, and a note on whether the table agrees.

    The arguments are those of ``ModelStudy.of``.

    Raises:
        ModelError: vLLM does not serve the model like this, or is not installed.
    """
    if (path := relative_to / said["config"]).exists():
        said["config"] = str(path)
    known = _known(said)
    ranks = known.ranks if known else said["ranks"]
    if not ranks:
        raise ModelError("--max-lora-rank is needed, because the table of architectures does not have the model")
    answer = ask(_options(said, ranks[0], known))
    shape = known.shape if known else _shape(said["config"])
    shape = replace(shape, held=answer.held(ranks[0]), moe=answer.moe(said["tensor_parallel"]))
    told = f"layers as the installed vLLM {answer.version} wraps them"
    if known is not None:
        return replace(known, shape=shape, told=f"{told}: {compared(known, answer)}")
    plain = {name: value for name, value in said.items() if name not in ("config", "adapters", "tower_connector")}
    return ModelStudy.with_shape(shape, told=f"{told}: the table does not have this model", **plain)


def _known(said: Mapping[str, Any]) -> ModelStudy | None:
    """Return the model according to the table of architectures; None if it is not there. Raises ModelError."""
    try:
        return ModelStudy.of(**{name: value for name, value in said.items() if name != "tower_connector"})
    except UnknownArchitectureError:
        if said.get("adapters") and not said.get("target_modules"):
            raise ModelError(
                "--adapter: bo_tune knows the names of modules only for architectures in its table; name the "
                "engine's modules with --lora-target-modules"
            ) from None
        return None


def compared(known: ModelStudy, answer: Answer) -> str:
    """Say whether the table of architectures agrees with the engine, and list differences."""
    mine, theirs = set(known.wrapped), answer.wrapped
    lines = [f"the table has {_shown(one)}, but vLLM does not wrap it like that" for one in sorted(mine - theirs)]
    lines += [f"vLLM wraps {_shown(one)}, but the table does not have it like that" for one in sorted(theirs - mine)]
    if (told := answer.expert_sizes) != (ours := _expert_sizes(known)):
        lines.append(f"for experts, vLLM has {_named(told)}, the table {_named(ours)}")
    more = [f"{len(lines) - MOST_TOLD} more differences"] if lines[MOST_TOLD:] else []
    return "; ".join([*lines[:MOST_TOLD], *more]) or "the table agrees"


def _expert_sizes(known: ModelStudy) -> tuple[int, ...] | None:
    if not known.has_experts:
        return None
    one = replace(known, ms=(1,), ranks=known.ranks[:1], max_loras=known.max_loras[:1])
    w13, w2 = one.problems_by_layer(MOE_KERNELS[1::2])
    experts = w13.experts
    assert experts is not None
    assert w13.i is not None
    assert w2.i is not None
    return w13.num_slices, w13.k, w2.k, w13.n, w13.i, w2.i, experts.count, experts.local, experts.top_k


def _named(sizes: tuple[int, ...] | None) -> str:
    return " ".join(f"{name} {size}" for name, size in zip(EXPERT_SIZES, sizes, strict=True)) if sizes else "none"


def _shown(one: Wrapped) -> str:
    name, (slices, k, n, *widths) = one
    return f"{name} (slices {slices}, k {k}, n {n}, widths {' '.join(map(str, widths))})"


def ask(options: Mapping[str, Any]) -> Answer:
    """Ask the installed vLLM. Raises ModelError if it gives no answer.

    Args:
        options: options of ``EngineArgs``.
    """
    try:
        done = subprocess.run(
            python_command(MODULE, json.dumps(options)), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"--derive engine: vLLM did not answer within {DEADLINE_S:.0f} s") from None
    try:
        answer = json.loads(done.stdout)
        reason = answer.get("error")
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        reason = f"exit code {done.returncode}: {lines[-1]}"
    if reason == NOT_INSTALLED:
        raise ModelError("--derive engine: no vLLM is installed here")
    if reason:
        raise ModelError(f"--derive engine: {one_line(reason)}")
    return Answer(answer["version"], answer["layers"], answer["experts"])


def _options(said: Mapping[str, Any], rank: int, known: ModelStudy | None) -> dict[str, Any]:
    """Return the options of an engine, by their names in ``EngineArgs``."""
    folder = Path(said["config"])
    if folder.is_file() and folder.name != CONFIG_FILE:
        raise ModelError(
            f"{folder}: --derive engine: expected a folder with a {CONFIG_FILE}, because vLLM reads nothing else"
        )
    options = {
        "model": str(folder.parent.resolve() if folder.is_file() else folder),
        "tensor_parallel_size": said["tensor_parallel"],
        "max_lora_rank": rank,
        "fully_sharded_loras": said.get("fully_sharded"),
        "enable_expert_parallel": said.get("expert_parallel"),
        "lora_target_modules": list((known.target_modules if known else said.get("target_modules")) or ()),
        "enable_mixed_moe_lora_format": said.get("unpacked_experts"),
        "enable_tower_connector_lora": said.get("tower_connector"),
        "max_num_seqs": said.get("max_sequences"),
        "max_num_batched_tokens": said.get("max_batched_tokens"),
    }
    return {name: value for name, value in options.items() if value}


def _shape(config: str) -> ModelShape:
    """Return the known facts of a model whose architecture is not in the table. Raises ModelError."""
    path = Path(config)
    file = path / CONFIG_FILE if path.is_dir() else path if path.exists() else download_config(config)
    fields = read_object(file, "a Hugging Face model config")
    names, text = fields.get("architectures"), fields.get("text_config")
    architecture = str(names[0]) if isinstance(names, list) and names else "an unknown architecture"
    dtype = served_dtype(text if isinstance(text, dict) else fields, fields)
    return ModelShape(file.parent.name if path.exists() else path.name, file, architecture, (), dtype=dtype)


def _label(name: str) -> str:
    """Return a layer's name for tables, without the number of its layer and the common prefix."""
    above, _, below = name.rpartition("*.")
    return (below.partition(".")[2] or below) if above else name.rpartition(".")[2]
