"""Activations and weights of the base model's experts, in an engine's format: how to draw them, and their values.

Notation: R rows of activations, E experts on this rank, U width and L length of a product. (b, k) are the rows and
columns of a weight that share a scale.

==============  =======================  =======================  ==================  ==================
weights         activations              weights                  scales of x         scales of w
==============  =======================  =======================  ==================  ==================
16 bits         ``[R, L]``               ``[E, U, L]``            none                none
fp8, an expert  fp8 ``[R, L]``           fp8 ``[E, U, L]``        ``[1]``             ``[E]``
fp8, blocks     fp8 ``[R, L]``           fp8 ``[E, U, L]``        ``[R, ⌈L/k⌉]``      ``[E, ⌈U/b⌉, ⌈L/k⌉]``
int8, groups    ``[R, L]``               uint8 ``[E, U, L]``      none                ``[E, U, L/k]``
int4, groups    ``[R, L]``               uint8 ``[E, U, L/2]``    none                ``[E, U, L/k]``
==============  =======================  =======================  ==================  ==================

A byte with two 4-bit weights holds the first in its lower bits. Zero points of 8 bits are laid out like the scales.
Those of 4 bits lie two in a byte, for consecutive rows: ``[E, U/2, L/k]``.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from weakref import WeakSet, WeakValueDictionary

import torch

from bo_tune.kernels.experts.step import FP8, INT4, ExpertsStep
from bo_tune.kernels.lora.operation import draw

FP8_DTYPE = torch.float8_e4m3fn
FP8_MOST = 448.0
FP8_SPREAD = 128.0
"""Standard deviation of the values drawn in fp8, which stands for 1. The largest of a hundred is then near the format's
maximum."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Weights:
    """The weights of all experts for one product (see the module). They are the same for all numbers of tokens.

    Attributes:
        scale: float32 for fp8; the activations' type for integers.
        zeros: zero points, uint8.
        users: the operands that share these weights.
    """

    w: torch.Tensor
    scale: torch.Tensor | None = None
    zeros: torch.Tensor | None = None
    users: "WeakSet[Operands]" = field(default_factory=WeakSet, init=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes."""
        return sum(tensor.nbytes for tensor in (self.w, self.scale, self.zeros) if tensor is not None)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Operands:
    """Both sides of one product (see the module).

    Attributes:
        x_scale: scales of activations in fp8, float32.
    """

    step: ExpertsStep
    x: torch.Tensor
    held: Weights
    x_scale: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.held.users.add(self)

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes, with this object's share of the weights."""
        own = self.x.nbytes + (self.x_scale.nbytes if self.x_scale is not None else 0)
        return own + self.held.nbytes // len(self.held.users)

    def rows(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return the values of some rows of activations, float32 ``[len(chosen), L]``."""
        if self.x_scale is None:
            return self.x[chosen].float()
        x = self.x.view(torch.uint8)[chosen].view(self.x.dtype).float()  # older releases of torch cannot index fp8
        if self.x_scale.ndim == 1:
            return x * self.x_scale
        assert self.step.block is not None
        return x * _spread(self.x_scale[chosen], self.step.block[1], 1, x.shape[1])

    def weight(self, expert: int) -> torch.Tensor:
        """Return the values of an expert's weight, float32 ``[U, L]``."""
        w = self.held.w[expert]
        if self.held.scale is None:
            return w.float()
        scale = self.held.scale[expert].float()
        if scale.ndim == 0:
            return w.float() * scale
        assert self.step.block is not None
        rows, columns = self.step.block
        if not self.step.is_grouped:
            return w.float() * _spread(_spread(scale, rows, 0, len(w)), columns, 1, w.shape[1])
        four = self.step.weights == INT4
        if four:
            w = torch.stack((w & 0xF, w >> 4), dim=-1).flatten(1)
        zeros = self._zeros(expert, 8.0 if four else 128.0, scale)
        return (w.float() - _spread(zeros, columns, 1, w.shape[1])) * _spread(scale, columns, 1, w.shape[1])

    def _zeros(self, expert: int, usual: float, scale: torch.Tensor) -> torch.Tensor:
        if self.held.zeros is None:
            return torch.full_like(scale, usual)
        zeros = self.held.zeros[expert]
        if self.step.weights == INT4:
            zeros = torch.stack((zeros & 0xF, zeros >> 4), dim=1).flatten(0, 1)
        return zeros.float()


class Drawer:
    """Draws operands. Problems that differ only by their number of tokens share weights as long as one uses them."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Hashable, Weights] = WeakValueDictionary()

    def draw(self, step: ExpertsStep, index: int, generator: torch.Generator | None, device: torch.device) -> Operands:
        """Draw one of a step's products. On the meta device, draw nothing.

        Args:
            index: 0 for the first product, whose rows are tokens; 1 for the second, whose rows are pairs.
            generator: generator of the activations. Weights depend on its seed alone. None on the meta device.
        """
        shape = (step.pairs if index else step.m, step.products[index][0])
        held = self._weights(step, index, generator, device)
        if step.weights != FP8:
            return Operands(step, draw(shape, getattr(torch, step.dtype), generator, device), held)
        scales = (shape[0], -(-shape[1] // step.block[1])) if step.block else (1,)
        x_scale = _scales(scales, 1 / FP8_SPREAD, generator, device)
        return Operands(step, _fp8(shape, generator, device), held, x_scale)

    def _weights(
        self, step: ExpertsStep, index: int, generator: torch.Generator | None, device: torch.device
    ) -> Weights:
        if generator is None:
            return _draw_weights(step, index, None, device)
        seed = generator.initial_seed()
        key = replace(step, m=1), index, seed, device
        known = self._known.get(key)
        if known is None:
            own = torch.Generator(device).manual_seed(seed + index + 1)
            known = self._known[key] = _draw_weights(step, index, own, device)
        return known


def _draw_weights(step: ExpertsStep, index: int, generator: torch.Generator | None, device: torch.device) -> Weights:
    (length, width), experts = step.products[index], step.experts.local
    dtype: torch.dtype = getattr(torch, step.dtype)
    if step.weights == FP8:
        scales = (experts, -(-width // step.block[0]), -(-length // step.block[1])) if step.block else (experts,)
        scale = _scales(scales, length**-0.5 / FP8_SPREAD, generator, device)
        return Weights(_fp8((experts, width, length), generator, device), scale)
    if not step.is_grouped:
        return Weights(draw((experts, width, length), dtype, generator, device, length**-0.5))
    assert step.block is not None
    groups, four = length // step.block[1], step.weights == INT4
    w = _integers((experts, width, length // 2 if four else length), 256, generator, device)
    usual = length**-0.5 / (4.0 if four else 64.0)  # relative to the spread of uniformly drawn integers
    scale = _scales((experts, width, groups), usual, generator, device).to(dtype)
    zeros = _integers((experts, width // 2 if four else width, groups), 256, generator, device) if step.zeros else None
    return Weights(w, scale, zeros)


def _fp8(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
    if device.type == "meta":
        return torch.empty(shape, dtype=FP8_DTYPE, device=device)
    values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return values.mul_(FP8_SPREAD).clamp_(-FP8_MOST, FP8_MOST).to(FP8_DTYPE)


def _scales(
    shape: tuple[int, ...], usual: float, generator: torch.Generator | None, device: torch.device
) -> torch.Tensor:
    """Draw scales between 0.5 and 1.5 times the usual value."""
    if device.type == "meta":
        return torch.empty(shape, dtype=torch.float32, device=device)
    return (torch.rand(shape, generator=generator, device=device) + 0.5) * usual


def _integers(
    shape: tuple[int, ...], below: int, generator: torch.Generator | None, device: torch.device
) -> torch.Tensor:
    if device.type == "meta":
        return torch.empty(shape, dtype=torch.uint8, device=device)
    return torch.randint(0, below, shape, generator=generator, device=device, dtype=torch.uint8)


def _spread(scales: torch.Tensor, size: int, dimension: int, length: int) -> torch.Tensor:
    """Repeat each scale over the elements that share it."""
    return scales.repeat_interleave(size, dimension).narrow(dimension, 0, length)
