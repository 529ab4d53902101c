"""Kernels under ``bo_tune.autotune`` in ``torch.compile``.

PyTorch's compiler traces a kernel's pruning, and measures the configs that are left. Here, one is left. The traced code
uses only Python that the compiler understands. The compiler calls functions that are marked constant without tracing
them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bo_tune.kernels.autotuned.misses import Misses
from bo_tune.kernels.user.decorated import Pruning

Named = tuple[tuple[str, Any], ...]


def chosen_by_table(
    misses: Misses, names: tuple[str, ...], key: tuple[str, ...], pruning: Pruning
) -> Callable[..., Sequence[Any]]:
    """Return a pruning that leaves the winner of a call, or else the config that runs in its place.

    Args:
        names: names of the kernel's parameters.
        key: names of the parameters that tell problems apart.
    """
    early, model, left_by = pruning.early, pruning.model, pruning.left

    @_marked_constant
    def is_tabled() -> bool:
        return misses.has_entries()

    @_marked_constant
    def place_of(values: Named, types: tuple[torch.dtype, ...]) -> int:
        return misses.place_in_table(dict(values), types)

    def prune(configs: Sequence[Any], named_args: Mapping[str, Any], **kwargs: Any) -> Sequence[Any]:
        every = configs
        if model is not None:
            configs = left_by(configs, named_args, kwargs)
        elif early is not None:
            configs = early(configs, named_args, **kwargs)
        if is_tabled():
            given = {**named_args, **kwargs}
            values = tuple([(name, _settled(given[name])) for name in key if name in given])
            tensors = [given[name] for name in names if name in given and isinstance(given[name], torch.Tensor)]
            place = place_of(values, tuple([tensor.dtype for tensor in tensors]))
            if place >= 0:
                return [every[place]]
        return [configs[0]]

    return prune


def _settled(value: Any) -> Any:
    """Return the current value of a size that the compiler treats as any number. Winners depend on it."""
    if isinstance(value, int):
        for one in {value: 0}:
            return one
    if isinstance(value, torch.SymInt):  # make_fx passes these; it calls this function and does not trace it
        return int(value)
    return value


def _marked_constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark as ``torch.compiler.assume_constant_result`` does, which would import the compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
