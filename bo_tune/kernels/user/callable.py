"""An operation: any Python callable that launches kernels, with all that is needed to tune it.

Imports neither torch nor triton.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bo_tune.core.problem import GpuInfo, Size
from bo_tune.errors import InputError
from bo_tune.kernels.user.definition import Definition, Params, Sizes, Space, names_in


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation(Definition):
    """Something to tune that launches what it likes: several kernels, torch's own between them, scratch that depends on
    the config. It must be a global of the module or script that defines it, as a ``Kernel`` must.

    Args:
        name: in databases and reports.
        space: the values to choose among, by parameter, of which all combinations are configs; or a list of configs, as
            mappings or ``triton.Config``. The parameters are whatever ``run`` makes of them.
        sizes: names of the sizes of a problem.
        make: ``(sizes, device) -> arguments``: what ``run`` is given, by name. Called with the GPU, and with torch's
            ``meta`` device, whose tensors hold nothing, to compile ahead.
        run: ``(arguments, config, gpu)``: launches everything once, on the current stream. It may allocate, and may
            return outputs: one, several in their order, or by name. ``gpu`` tells ``name``, ``capability``,
            ``sm_count``, ``shared_memory_bytes`` and ``l2_bytes`` (``GpuInfo``).
        outputs: names of what is written: arguments, and what ``run`` returns.
        restore: names of the arguments that are read and written. They are what ``make`` made of them before every
            launch, which is not timed. An output that is not among them is filled with NaN before a check, so that an
            element that is not written shows.
        zero: names of the arguments that must be zero before a launch, or ``(sizes, config) -> names`` where that
            depends on the config. They are cleared before every launch, and that is timed with it: whoever runs the
            operation has to do it. Counters that it leaves at zero itself need nothing.
        reference: ``arguments -> outputs``: what they must be; a tensor each, by name or in their order; or None where
            it has written them into its arguments, which are copies. Without it, what the default config gives is
            right.
        tolerance: how far a right result may be from the reference (``Tolerance``, or a number: its ``relative``), for
            all outputs or by their names. By default what the output's type allows.
        default: the config to beat: one for all problems, or ``sizes -> config``. By default the middle of the space,
            or the first of a list that is valid.
        valid: ``(sizes, config) -> bool``: whether a config may be tried at all.
        features: what else may tell fast configs from slow ones before they are compiled (programs launched, bytes of
            scratch): numbers by name, each ``(sizes, config) -> float``.

    Raises:
        InputError: these do not fit together.
    """

    name: str = field(kw_only=False)
    space: Space = field(kw_only=False)
    sizes: Sequence[str] = field(kw_only=False)
    make: Callable[[Sizes, Any], Mapping[str, Any]] = field(kw_only=False)
    run: Callable[[Mapping[str, Any], Params, GpuInfo], Any] = field(kw_only=False)
    outputs: str | Sequence[str]
    restore: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        for what in ("make", "run"):
            if not callable(getattr(self, what)):
                raise InputError(f"{self.name}: {what}: expected a function, got {getattr(self, what)!r}")
        for what in ("sizes", "outputs", "restore"):
            object.__setattr__(self, what, names_in(getattr(self, what)))
        if not self.sizes:
            raise InputError(f"{self.name}: sizes: expected the names of a problem's sizes, got none")
        self._check()

    @property
    def own_functions(self) -> tuple[Any, ...]:
        return self.make, self.run

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return names_in(self.outputs)

    @cached_property
    def read_outputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.output_names if name in self.restore)

    @property
    def restored(self) -> tuple[str, ...]:
        return tuple(self.restore)

    def arguments(self, sizes: dict[str, Size], device: Any) -> Mapping[str, Any]:
        return self.make(sizes, device)

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raise InputError where something is said of an argument that ``make`` does not return."""
        said = {"restore": self.restore, "zero": () if callable(self.zero) else names_in(self.zero)}
        for what, names in said.items():
            for name in names:
                if name not in arguments:
                    known = ", ".join(arguments) or "none"
                    raise InputError(f"{self.name}: {what}: {name!r} is no argument; make returns {known}")
