"""Values to fill memory with before a check, so that unwritten elements show."""

from collections.abc import Mapping
from math import isnan
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_EMPTY = frozenset(
    getattr(torch.ops.aten, name) for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
)


def filling(dtype: torch.dtype, *, other: bool = False) -> float | int | bool:
    """Return NaN, the largest integer or True; or the other filling: 0, the smallest integer or False."""
    if dtype.is_floating_point or dtype.is_complex:
        return 0.0 if other else float("nan")
    if dtype == torch.bool:
        return not other
    info = torch.iinfo(dtype)
    return info.min if other else info.max


def is_filled(values: torch.Tensor, dtype: torch.dtype, *, other: bool = False) -> torch.Tensor:
    """Say where a reference's result equals the filling of an output of some type."""
    filled = filling(dtype, other=other)
    if isnan(filled):
        return values.float().isnan() if not values.is_complex() else values.isnan()
    return values == torch.tensor(filled, dtype=dtype, device=values.device).to(values.dtype)


class FillingAllocations(TorchDispatchMode):
    """Inside this context, memory that torch allocates without a value is filled.

    New memory is often memory that an earlier launch has released, with a right result still in it.
    """

    def __init__(self, *, other: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._other = other

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: where it is True, PyTorch imports its compiler at the first operator, which takes 5 to 8 s."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator in place of torch."""
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in _EMPTY:
            made.fill_(filling(made.dtype, other=self._other))
        return made
