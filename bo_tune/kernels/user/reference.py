"""What a kernel's author says is right, for the arguments of one problem."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch

from bo_tune.errors import InputError
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user.comparison import Right, right_output
from bo_tune.kernels.user.kernel import Kernel
from bo_tune.kernels.user.memory import copied


@dataclass(frozen=True, slots=True)
class RightOutputs:
    """What each output must be."""

    outputs: tuple[Right, ...]

    @property
    def nbytes(self) -> int:
        """Device memory held."""
        return sum(right.nbytes for right in self.outputs)

    def judge(self, arguments: Mapping[str, Any]) -> Verdict:
        """Say whether the outputs among arguments are right, each by itself."""
        verdicts = [right.judge(arguments[right.name]) for right in self.outputs]
        errors = [verdict.error for verdict in verdicts if verdict.error is not None]
        wrong = "; ".join(verdict.wrong for verdict in verdicts if verdict.wrong)
        return Verdict(max(errors) if len(errors) == len(verdicts) else None, wrong)


def poison(kernel: Kernel, arguments: Mapping[str, Any], *, other: bool = False) -> None:
    """Fill the outputs that the kernel does not read with what shows where nothing was written.

    That is NaN, or the largest integer, or True; or the other filling: 0, the least integer, False.
    """
    for name in kernel.written_only:
        arguments[name].fill_(_filling(arguments[name].dtype, other=other))


def right_outputs(kernel: Kernel, arguments: Mapping[str, Any]) -> RightOutputs:
    """Ask the reference what is right. It is given copies, and may do with them what it likes.

    Where the outputs keep their filling it has written nothing; whether a NaN is that or was written is told by
    another filling.

    Raises:
        InputError: it gives what the outputs cannot be, or nothing at all.
    """
    said = _ask(kernel, arguments, other=False)
    untouched = {name: _is_filled(said[name], arguments[name].dtype, other=False) for name in kernel.written_only}
    if any(bool(where.any()) for where in untouched.values()):
        again = _ask(kernel, arguments, other=True)
        untouched = {
            name: where & _is_filled(again[name], arguments[name].dtype, other=True)
            for name, where in untouched.items()
        }
    rights = []
    for name in kernel.outputs:
        ignored = untouched.get(name)
        if ignored is not None and bool(ignored.all()) and ignored.numel():
            raise InputError(f"{kernel.name}: reference: nothing is written to {name!r}")
        ignored = ignored if ignored is not None and bool(ignored.any()) else None
        try:
            rights.append(right_output(name, arguments[name], said[name], ignored, kernel.tolerances[name]))
        except InputError as error:
            raise InputError(f"{kernel.name}: {error}") from error
    return RightOutputs(tuple(rights))


def _ask(kernel: Kernel, arguments: Mapping[str, Any], *, other: bool) -> dict[str, torch.Tensor]:
    """Return what the reference makes of copies of the arguments, by the outputs' names."""
    given = copied(arguments)
    poison(kernel, given, other=other)
    said = kernel.reference(given)
    if said is None:
        said = given
    elif isinstance(said, torch.Tensor):
        said = {kernel.outputs[0]: said} if len(kernel.outputs) == 1 else {}
    elif isinstance(said, (tuple, list)):
        said = dict(zip(kernel.outputs, said, strict=False)) if len(said) == len(kernel.outputs) else {}
    found: dict[str, torch.Tensor] = {}
    for name in kernel.outputs:
        shape = tuple(arguments[name].shape)
        one = said.get(name) if isinstance(said, Mapping) else said
        if not isinstance(one, torch.Tensor) or tuple(one.shape) != shape:
            got = tuple(one.shape) if isinstance(one, torch.Tensor) else "none" if one is None else type(one).__name__
            of = f" for {name!r}" if len(kernel.outputs) > 1 else ""
            raise InputError(f"{kernel.name}: reference: expected a tensor of shape {shape}{of}, got {got}")
        found[name] = one.detach().to(arguments[name].device)
    return found


def _filling(dtype: torch.dtype, *, other: bool) -> float | int | bool:
    if dtype.is_floating_point or dtype.is_complex:
        return 0.0 if other else float("nan")
    if dtype == torch.bool:
        return not other
    info = torch.iinfo(dtype)
    return info.min if other else info.max


def _is_filled(values: torch.Tensor, dtype: torch.dtype, *, other: bool) -> torch.Tensor:
    """Say where what a reference gave is the filling of an output of some type."""
    filling = _filling(dtype, other=other)
    if isnan(filling):
        return values.float().isnan() if not values.is_complex() else values.isnan()
    return values == torch.tensor(filling, dtype=dtype, device=values.device).to(values.dtype)
