"""A Triton kernel with all that is needed to tune it, as its author says it. Imports neither torch nor triton."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from bo_tune.core.problem import Size, SizedProblem
from bo_tune.errors import InputError
from bo_tune.kernels.spec import LAUNCH_OPTIONS
from bo_tune.kernels.user.definition import Definition, Params, Sizes, Space, names_in
from bo_tune.kernels.user.values import Value

if TYPE_CHECKING:
    from bo_tune.kernels.user.decorated import Decorated


@dataclass(frozen=True, eq=False, kw_only=True)
class Kernel(Definition):
    """A Triton kernel to tune.

    It must be a global of the module or script that defines it. The processes that compile and measure import it from
    there.

    Args:
        function: the kernel, under ``@triton.jit``, and possibly under ``@triton.heuristics`` and ``@triton.autotune``.
            The latter fills in whatever is not given here: its configs are the space, its key the sizes that a problem
            must have, its pruning decides what is valid, ``reset_to_zero`` is ``zero``, and ``restore_value`` names
            arguments to restore.
        space: the values of parameters of the kernel and of Triton's launch options (``num_warps``, ``num_stages``,
            ``maxnreg``, ``launch_pdl`` …), all combinations of which are configs; or a list of configs, as mappings or
            ``triton.Config``.
        inputs: ``(sizes, device) -> arguments``: the kernel's other arguments by name. Called with the GPU; also with
            torch's ``meta`` device, whose tensors hold nothing, to compile ahead.
        grid: ``(sizes, config) -> programs``: a number, or a tuple of up to three.
        output: name of the argument that the kernel writes, or several names.
        reference: ``arguments -> tensor``: the right output. For several outputs, one tensor each, by name or in their
            order; or None if it has written them into its arguments. These are copies, with the outputs as the kernel
            finds them. Elements that the reference leaves unchanged there, the kernel may leave, or fill with anything.
            Without a reference, the result of the default config is right.
        default: the config to beat: one for all problems, or ``sizes -> config``. By default it is the middle of the
            space, or the first valid config of a list.
        valid: ``(sizes, config) -> bool``: whether a config may be tried at all.
        features: further values that may tell fast configs from slow ones before they are compiled, by name, each
            ``(sizes, config) -> float``.
        tolerance: how far a right result may be from the reference (``Tolerance``, or a number: its ``relative``), for
            all outputs or by their names. The default depends on the output's type.
        in_place: whether the kernel reads its output (adds to it, say), or the names of those outputs that it reads.
            Before every launch, such an output is restored to what ``inputs`` returned. Any other output is filled with
            NaN before a check, so that an element that is not written shows.
        zero: names of the arguments that must be zero before a launch, or ``(sizes, config) -> names``. They are
            cleared before every launch, and this is timed with it, because whoever calls the kernel has to do it.
        block_shapes: for each tensor descriptor among the arguments, the parameters (or numbers) that make up its block
            shape: ``{"a": ("BLOCK_M", "BLOCK_K")}``.
        sizes: names of the sizes of a problem. By default whatever the problems have.
        name: name of the kernel in databases and reports; by default the function's. If several kernels of a module
            would share a name, each takes the name of its global.

    Raises:
        InputError: these do not fit together.
    """

    function: Any = field(kw_only=False)
    inputs: Callable[[Sizes, Any], Mapping[str, Any]]
    grid: Callable[[Sizes, Params], int | tuple[int, ...]]
    output: str | Sequence[str]
    in_place: bool | str | Sequence[str] = False
    block_shapes: Mapping[str, Sequence[str | int]] = field(default_factory=dict)

    makes: ClassVar[str] = "inputs"

    def __post_init__(self) -> None:
        decorated = self.decorated
        object.__setattr__(self, "name", self.name or decorated.name)
        object.__setattr__(self, "zero", self.zero or decorated.zero)
        object.__setattr__(self, "sizes", names_in(self.sizes))
        self._check()
        known = (*self.parameters, *LAUNCH_OPTIONS)
        for name in self.values:
            if name not in known and name not in decorated.launch_options:
                expected = f"{', '.join(known)} or another of Triton's launch options"
                raise InputError(
                    f"{self.name}: space: the kernel has no parameter {name!r}; expected some of {expected}"
                )
        self._check_names("output", self.output_names)
        self._check_names("block_shapes", self.block_shapes)
        if not callable(self.zero):
            self._check_names("zero", names_in(self.zero))
        for name in () if isinstance(self.in_place, bool) else names_in(self.in_place):
            if name not in self.output_names:
                raise InputError(
                    f"{self.name}: in_place: {name!r} is not an output; the outputs are {', '.join(self.output_names)}"
                )

    def _check_names(self, what: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.parameters or name in self.values:
                raise InputError(f"{self.name}: {what}: expected one of the kernel's arguments, got {name!r}")

    @cached_property
    def decorated(self) -> "Decorated":
        """The function below its decorators, with their contents. Raises InputError."""
        # This imports torch and triton. Whoever made the function has imported them already.
        from bo_tune.kernels.user.decorated import undecorated  # noqa: PLC0415

        return undecorated(self.function)

    @property
    def jit(self) -> Any:
        """Triton's jit function."""
        return self.decorated.function

    @property
    def given_name(self) -> str:
        return self.decorated.name

    @property
    def is_gridded(self) -> bool:
        return True

    @property
    def said_space(self) -> Space | None:
        """The space, or else the configs of ``@triton.autotune``."""
        return self.space if self.space is not None else self.decorated.configs

    @property
    def own_functions(self) -> tuple[Any, ...]:
        return self.inputs, self.jit

    @property
    def functions(self) -> tuple[Any, ...]:
        """The functions that affect the results, including those that ``@triton.autotune`` runs before a launch."""
        more = self.decorated.hooks if self.space is None else ()
        return (*super().functions, self.grid, *self.decorated.heuristics.values(), *more)

    @property
    def more_that_counts(self) -> tuple[str, ...]:
        shapes = {name: tuple(sides) for name, sides in self.block_shapes.items()}
        return (*super().more_that_counts, *([f"block shapes {shapes}"] if shapes else []))

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The kernel's parameters in order, with their defaults (``inspect.Parameter.empty`` if there is none)."""
        signature = inspect.signature(self.jit.fn)
        return {name: parameter.default for name, parameter in signature.parameters.items()}

    def arguments(self, sizes: dict[str, Size], device: Any) -> Mapping[str, Any]:
        return self.inputs(sizes, device)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The arguments that the kernel writes."""
        return names_in(self.output)

    def outputs_in(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the outputs of a call with these arguments. They must be tensors."""
        return self.output_names

    def more_options(self, problem: SizedProblem) -> Mapping[str, Any]:
        """Return launch options that belong to a problem, and that no config sets."""
        return {}

    @cached_property
    def read_outputs(self) -> tuple[str, ...]:
        """Outputs that the kernel reads as well."""
        if isinstance(self.in_place, bool):
            restored = self.decorated.restore
            return self.output_names if self.in_place else tuple(name for name in self.output_names if name in restored)
        return names_in(self.in_place)

    def check_sizes(self, names: Iterable[str]) -> None:
        """Check the names of sizes. Problems that ``@triton.autotune`` tells apart must differ here, too."""
        given = set(names)
        super().check_sizes(given)
        for name in self.decorated.key:
            if name not in given:
                raise InputError(
                    f"{self.name}: problems need the size {name!r}, because it is in the key of @triton.autotune"
                )

    def allows(self, problem: SizedProblem, params: Params) -> bool:
        if not super().allows(problem, params):
            return False
        if self.space is not None or self.decorated.prune is None:
            return True
        return self._place(params) in self._left_by_pruning(problem)

    @cached_property
    def _left_by_pruning(self) -> Callable[[SizedProblem], frozenset[tuple[Value, ...]]]:
        return lru_cache(maxsize=64)(self._prune)

    def _prune(self, problem: SizedProblem) -> frozenset[tuple[Value, ...]]:
        """Return the configs that the pruning of ``@triton.autotune`` leaves."""
        arguments = self.ask(self.makes, self.decorated.meta_inputs, self.inputs, dict(problem.sizes))
        assert self.decorated.prune is not None
        left = self.ask("prune_configs_by", self.decorated.prune, dict(arguments))
        return frozenset(tuple(config.all_kwargs().get(name) for name in self.values) for config in left)

    def programs(self, problem: SizedProblem, params: Params) -> tuple[int, int, int]:
        said = self.ask("grid", self.grid, dict(problem.sizes), dict(params))
        axes = said if isinstance(said, tuple) else (said,)
        if not 1 <= len(axes) <= 3 or not all(isinstance(n, Integral) and int(n) > 0 for n in axes):
            raise InputError(f"{self.name}: grid: expected up to three positive numbers, got {said!r} for {problem}")
        first, second, third = map(int, (*axes, 1, 1)[:3])
        return first, second, third
