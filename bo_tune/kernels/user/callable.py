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
    """Something to tune that launches what it likes.

    That may be several kernels, torch's own between them, or scratch memory that depends on the config. Like a
    ``Kernel``, it must be a global of the module or script that defines it.

    Args:
        name: the name in databases and reports.
        space: the values of each parameter, all combinations of which are configs; or a list of configs, as mappings or
            ``triton.Config``. ``run`` decides what the parameters mean.
        sizes: names of the sizes of a problem.
        make: ``(sizes, device) -> arguments``: the arguments of ``run`` by name. Called with the GPU; also with torch's
            ``meta`` device, whose tensors hold nothing, to compile ahead.
        run: ``(arguments, config, gpu)``: launches everything once, on the current stream. It may allocate, and may
            return outputs: one, several in their order, or by name. ``gpu`` has ``name``, ``capability``, ``sm_count``,
            ``shared_memory_bytes`` and ``l2_bytes`` (``GpuInfo``).
        outputs: names of the outputs: arguments that are written, and results that ``run`` returns.
        restore: names of the arguments that are both read and written. Before every launch, they are restored to what
            ``make`` returned. This is not timed. Any other output is filled with NaN before a check, so that an element
            that is not written shows.
        zero: names of the arguments that must be zero before a launch, or ``(sizes, config) -> names`` if that depends
            on the config. They are cleared before every launch, and this is timed with it, because whoever runs the
            operation has to do it. Counters that the operation itself leaves at zero need nothing.
        reference: ``arguments -> outputs``: the right outputs, one tensor each, by name or in their order; or None if
            it has written them into its arguments, which are copies. Without a reference, the result of the default
            config is right.
        tolerance: how far a right result may be from the reference (``Tolerance``, or a number: its ``relative``), for
            all outputs or by their names. The default depends on the output's type.
        default: the config to beat: one for all problems, or ``sizes -> config``. By default it is the middle of the
            space, or the first valid config of a list.
        valid: ``(sizes, config) -> bool``: whether a config may be tried at all.
        features: further values that may tell fast configs from slow ones before they are compiled (programs launched,
            bytes of scratch), by name, each ``(sizes, config) -> float``.

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
        """Raise InputError if ``restore`` or ``zero`` names an argument that ``make`` does not return."""
        said = {"restore": self.restore, "zero": () if callable(self.zero) else names_in(self.zero)}
        for what, names in said.items():
            for name in names:
                if name not in arguments:
                    known = ", ".join(arguments) or "none"
                    raise InputError(f"{self.name}: {what}: {name!r} is not an argument; make returns {known}")
