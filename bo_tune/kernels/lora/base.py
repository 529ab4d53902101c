"""The product of a base layer, computed as engines do from weights of 16, 8 and 4 bits.

The work that runs beside the adapters affects which adapter config is best, through its duration and its share of the
L2 cache. 8-bit weights are multiplied much as vLLM does on Hopper: cuBLASLt takes the place of its kernel, after one
launch that quantises the activations. 4-bit weights go through torch's own kernel in place of Marlin, which only a
whole vLLM has. It reads as many bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from bo_tune.core.surroundings import Linear, Weights
from bo_tune.kernels.lora.operation import draw

WEIGHT_SCALE = 0.02

GROUP = 128
"""Number of 4-bit weights that share a scale."""

TILES = 8
"""Number of tiles, of 16 weights along k each, that torch packs together."""


class BaseProduct(ABC):
    """``y = x @ W.T`` for one of several copies of the weights.

    Args:
        linear: the layer.
        copies: number of copies.
        x: activations, ``[m, k]``.
        y: results, ``[m, sum of widths]``.

    Attributes:
        weights: the weights of each copy, as the layer stores them.
    """

    def __init__(
        self, linear: Linear, copies: int, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> None:
        self._x, self._y = x, y
        shape = (sum(linear.widths), linear.k)
        drawn = (draw(shape, x.dtype, generator, x.device, WEIGHT_SCALE) for _ in range(copies))
        self.weights = list(map(self.stored, drawn))

    @abstractmethod
    def stored(self, weights: torch.Tensor) -> torch.Tensor:
        """Return weights as the layer stores them."""

    @abstractmethod
    def run(self, copy: int) -> None:
        """Launch one copy's product."""

    @property
    def nbytes(self) -> int:
        """Device memory of the weights, in bytes."""
        return sum(weights.nbytes for weights in self.weights)


class Product16(BaseProduct):
    """Weights in the activations' type."""

    def stored(self, weights: torch.Tensor) -> torch.Tensor:
        return weights

    def run(self, copy: int) -> None:
        torch.mm(self._x, self.weights[copy].t(), out=self._y)


class Product8(BaseProduct):
    """Weights and activations in ``float8_e4m3fn``, with one scale for each tensor."""

    def __init__(
        self, linear: Linear, copies: int, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> None:
        super().__init__(linear, copies, x, y, generator)
        self._x8 = torch.empty_like(x, dtype=torch.float8_e4m3fn)
        self._one = torch.ones((), dtype=torch.float32, device=x.device)

    def stored(self, weights: torch.Tensor) -> torch.Tensor:
        return weights.to(torch.float8_e4m3fn)

    def run(self, copy: int) -> None:
        self._x8.copy_(self._x)
        torch._scaled_mm(
            self._x8, self.weights[copy].t(), scale_a=self._one, scale_b=self._one, out_dtype=self._y.dtype, out=self._y
        )


class Product4(BaseProduct):
    """Weights of 4 bits, with a scale and a zero point for each ``GROUP`` along k."""

    def __init__(
        self, linear: Linear, copies: int, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> None:
        super().__init__(linear, copies, x, y, generator)
        shape = (linear.k // GROUP, sum(linear.widths), 2)
        self._scales = torch.full(shape, WEIGHT_SCALE / 4, dtype=torch.bfloat16, device=x.device)
        self._scales[..., 1] = 0.0

    def stored(self, weights: torch.Tensor) -> torch.Tensor:
        steps = weights.div(WEIGHT_SCALE / 4).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
        return torch._convert_weight_to_int4pack(steps[:, ::2] << 4 | steps[:, 1::2], TILES)

    def run(self, copy: int) -> None:
        self._y.copy_(torch._weight_int4pack_mm(self._x, self.weights[copy], GROUP, self._scales))


PRODUCTS: Mapping[Weights, type[BaseProduct]] = {
    Weights.BITS_16: Product16,
    Weights.FP8: Product8,
    Weights.INT4: Product4,
}
"""The product for each way of storing weights."""
