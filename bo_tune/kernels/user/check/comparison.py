"""Checks whether a result is right: truth values and integers exactly, other numbers by element and by norm.

NaN and inf must be in their places. Notation: r is the reference, o the output, both in the output's type; e = |o - r|;
t the relative tolerance.

- overall: norm(e) <= t norm(r);
- each element: e <= 5 t max(|r|, mean |r| of its neighbours, median |r| / 1000). Noise is proportional to the terms
  that were added up. An element that came out small by chance says nothing about their size, but its neighbours do.
  Neighbours are the elements of its block along each axis; the axis with the least mean counts. So a row, a column or
  a tile of small numbers is judged by itself.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite

import torch

from bo_tune.errors import InputError
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user.check.tolerance import Tolerance

RELATIVE = {torch.float64: 1e-9, torch.float32: 2e-3, torch.float16: 4e-3, torch.bfloat16: 1e-2}
"""Relative tolerance by type. For 32 bits, the worst honest case is TF32: 1.1e-3 with truncated operands. For 16 bits,
it is the rounding of stored values, including those between two products."""

UNWRITTEN_HINT = "; if the kernel never writes it, the reference must leave it unchanged"
"""Added to a message if an output is NaN and should be 0. Elements that are not written hold NaN, and references often
begin with 0."""

ROUNDINGS = 1.25
"""Tolerance of types with fewer digits, in units in the last place."""

ELEMENT = 5.0
"""An element may be off by this many times the tolerance of the whole. The largest of a million normal deviates is."""

BLOCK = 16
"""Least number of elements of a block along an axis. Fewer may all come out small by chance."""

FAINT = 1e-3
"""Share of the usual size. If whole blocks cancel out, what is left is noise."""


@dataclass(frozen=True)
class Right(ABC):
    """One right output.

    Attributes:
        values: the right values, in the output's type.
        ignored: mask of the elements that may be anything; None for no such element.
    """

    name: str
    values: torch.Tensor
    ignored: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes."""
        return self.values.nbytes + (0 if self.ignored is None else self.ignored.nbytes)

    @abstractmethod
    def judge(self, output: torch.Tensor) -> Verdict:
        """Say whether an output is right, and how far off it is."""

    def _verdict(self, output: torch.Tensor, bad: torch.Tensor, error: float | None) -> Verdict:
        """Say which elements are wrong, if any."""
        count = int(bad.count_nonzero())
        if not count:
            return Verdict(error)
        place = tuple(bad.nonzero()[0].tolist())
        got, want = output[place].item(), self.values[place].item()
        where = f" at {list(place)}" if place else ""
        hint = UNWRITTEN_HINT if got != got and want == 0 else ""
        return Verdict(
            error,
            f"{self.name}: {count} of {bad.numel()} elements are wrong; the first{where} is {got}, but should be "
            f"{want}{hint}",
        )


@dataclass(frozen=True)
class Exact(Right):
    """Truth values, or integers, which may be off by ``absolute``."""

    absolute: float

    def judge(self, output: torch.Tensor) -> Verdict:
        bad = _bits(output) != _bits(self.values)
        if self.ignored is not None:
            bad &= ~self.ignored
        if not bool(bad.any()):
            return Verdict(0.0)
        difference = torch.where(bad, output.double() - self.values.double(), 0.0).abs()
        if self.absolute:
            bad &= difference > self.absolute
        return self._verdict(output, bad, _ratio(_norm(difference), _norm(self.values.double())))


@dataclass(frozen=True)
class Close(Right):
    """Floating-point numbers.

    Attributes:
        allowed: largest error of each element; for complex numbers, of each part.
        relative: largest norm of the difference, relative to the norm of the right values.
        spare: norm of the difference that is allowed in addition.
        norm: norm of the right values.
    """

    allowed: torch.Tensor
    relative: float
    spare: float
    norm: float

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.allowed.nbytes

    def judge(self, output: torch.Tensor) -> Verdict:
        got, want = _parts(output), _parts(self.values)
        same = (got == want) | (got.isnan() & want.isnan())
        if self.ignored is not None:
            same |= self.ignored.unsqueeze(-1)
        difference = torch.where(same, 0.0, got - want).abs_()
        bad = ~(difference <= self.allowed.unsqueeze(-1)) & ~same
        norm = _norm(difference)
        error = _ratio(norm, self.norm)
        if error is not None and norm > self.relative * self.norm + self.spare and not bool(bad.any()):
            return Verdict(error, f"{self.name}: the relative error is {error:.3g}, more than {self.relative:.3g}")
        return self._verdict(output, bad.any(dim=-1), error)


def right_output(
    name: str, output: torch.Tensor, reference: torch.Tensor, ignored: torch.Tensor | None, tolerance: Tolerance
) -> Right:
    """Return the right output, ready to judge others.

    Args:
        output: any tensor of the output's type and shape.
        reference: the right values, in the same shape.
        ignored: mask of the elements that may be anything.

    Raises:
        InputError: the output's type cannot hold the reference, or the reference has NaN where none is allowed.
    """
    held = reference.to(output.dtype) if output.dtype.is_complex or not reference.dtype.is_complex else None
    if held is None or not (_is_inexact(output.dtype) or _holds(held, reference, ignored)):
        kinds = f"{_named(output.dtype)}, but the reference is {_named(reference.dtype)}, which it cannot hold"
        raise InputError(f"reference: {name!r} is {kinds}; return what the kernel stores")
    if not tolerance.equal_nan and bool((held.isnan() if ignored is None else held.isnan() & ~ignored).any()):
        raise InputError(f"reference: {name!r} contains NaN, which is never right with equal_nan=False")
    if not _is_inexact(output.dtype):
        return Exact(name, held, ignored, 0.0 if output.dtype == torch.bool else tolerance.absolute)
    inexact = [dtype for dtype in (output.dtype, reference.dtype) if _is_inexact(dtype)]
    relative = max(map(relative_of, inexact)) if tolerance.relative is None else tolerance.relative
    return _close(name, held, ignored, relative, tolerance.absolute)


def relative_of(dtype: torch.dtype) -> float:
    """Return the largest relative error of a right result of a floating-point type."""
    real = dtype.to_real() if dtype.is_complex else dtype
    return RELATIVE.get(real, ROUNDINGS * torch.finfo(real).eps)


def _close(name: str, held: torch.Tensor, ignored: torch.Tensor | None, relative: float, absolute: float) -> Close:
    """Compute once what every result is compared with."""
    parts = _parts(held)
    counted = parts.isfinite()
    if ignored is not None:
        counted &= ~ignored.unsqueeze(-1)
    parts = torch.where(counted, parts, 0.0)
    sizes = parts.abs()[..., 0] if parts.shape[-1] == 1 else torch.linalg.vector_norm(parts, dim=-1)
    there = sizes[sizes > 0]
    usual = float(there.median()) if there.numel() else 0.0
    least = ELEMENT * relative * FAINT * usual + absolute + _least(held.dtype)
    scale = torch.maximum(sizes, _neighbourhood(sizes, counted.any(dim=-1)))
    return Close(
        name,
        held,
        ignored,
        allowed=(ELEMENT * relative * scale).add_(least),
        relative=relative,
        spare=least * parts.numel() ** 0.5,
        norm=_norm(parts),
    )


def _neighbourhood(sizes: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the mean of each element's block along an axis, for the axis where the mean is least.

    If no axis has a block with enough counted elements, all counted elements form one block.
    """
    weights = counted.to(sizes.dtype)
    least = torch.full_like(sizes, torch.inf)
    for axis, length in enumerate(sizes.shape):
        if length >= BLOCK:
            block = torch.arange(length, device=sizes.device) * (length // BLOCK) // length
            none = sizes.new_zeros((*sizes.shape[:axis], length // BLOCK, *sizes.shape[axis + 1 :]))
            counts = none.index_add(axis, block, weights)
            means = none.index_add(axis, block, sizes / BLOCK).mul_(BLOCK / counts)  # a sum may exceed the type
            means[counts < BLOCK] = torch.inf
            torch.minimum(least, means.index_select(axis, block), out=least)
    share = sizes.double().sum() / max(1, int(counted.count_nonzero()))
    return torch.where(least.isinf(), share.to(sizes.dtype), least)


def _parts(values: torch.Tensor) -> torch.Tensor:
    """Return numbers of 32 or 64 bits with one more axis, which holds both parts of complex numbers."""
    if values.is_complex():
        values = values if values.dtype == torch.complex128 else values.to(torch.complex64)
        return torch.view_as_real(values.resolve_conj())
    return (values if values.dtype == torch.float64 else values.float()).unsqueeze(-1)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Return truth values, or integers reinterpreted in a type of their width that can be compared."""
    if values.dtype == torch.bool:
        return values.contiguous().view(torch.uint8) != 0
    of_width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(of_width[values.element_size()])


def _holds(held: torch.Tensor, reference: torch.Tensor, ignored: torch.Tensor | None) -> bool:
    """Say whether a conversion to truth values or integers has kept the reference's numbers."""
    differs = held.to(reference.dtype) != reference
    if reference.dtype.is_floating_point or reference.dtype.is_signed != held.dtype.is_signed:
        differs |= held.double() != reference.double()
    return not bool((differs if ignored is None else differs & ~ignored).any())


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _least(dtype: torch.dtype) -> float:
    """Return a size that counts as zero: what a GPU flushes to zero, or two steps of the smallest numbers."""
    info = torch.finfo(dtype.to_real() if dtype.is_complex else dtype)
    flushed = dtype in (torch.float32, torch.bfloat16, torch.complex64)
    return info.smallest_normal * (1.0 if flushed else 2.0 * info.eps)


def _norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))


def _ratio(error: float, norm: float) -> float | None:
    """Return a relative error; None if it is not a number, or if the norm is zero."""
    if error == 0.0:
        return 0.0
    return error / norm if norm and isfinite(error) else None


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
