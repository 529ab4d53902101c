"""The memory of a kernel's arguments. Finds what launches change in it, and restores that."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor


def tensor_of(value: Any) -> torch.Tensor | None:
    """Return a tensor argument, or the base tensor of a descriptor; None for any other argument."""
    if isinstance(value, TensorDescriptor):
        value = value.base
    return value if isinstance(value, torch.Tensor) else None


def tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors among arguments, also from tuples and lists."""
    for value in values:
        tensor = tensor_of(value)
        if tensor is not None:
            yield tensor
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)


def bytes_of(arguments: Mapping[str, Any]) -> int:
    """Return the device memory that arguments hold, in bytes. Shared memory counts once."""
    return sum(memory.nbytes for memory in _memory_of(tensors_in(arguments.values())).values())


def copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copy arguments with their tensors. Tensors that share memory share it in the copy."""
    memo: dict[int, Any] = {}
    return {name: _copied(value, memo) for name, value in arguments.items()}


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return copy.deepcopy(value.detach(), memo)
    if isinstance(value, TensorDescriptor):
        return replace(value, base=_copied(value.base, memo))
    if isinstance(value, list):
        return [_copied(one, memo) for one in value]
    if isinstance(value, tuple):
        parts = [_copied(one, memo) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A piece of memory that kernels use, and its initial content; both flat."""

    live: torch.Tensor
    first: torch.Tensor


@dataclass(slots=True)
class Memory:
    """The memory that launches may read, and its initial content.

    Attributes:
        unchanged: pieces that no launch has changed so far.
        changed: pieces that a launch has changed. They are restored before every launch.
    """

    unchanged: list[_Kept]
    changed: list[_Kept] = field(default_factory=list)

    @classmethod
    def of(cls, arguments: Mapping[str, Any], written_only: Iterable[str], restored: Iterable[str] = ()) -> "Memory":
        """Copy the memory of arguments, except those that a kernel writes and does not read.

        Args:
            restored: arguments that launches are known to change.
        """
        without, known = set(written_only), tensors_in(arguments.get(name) for name in restored)
        read = tensors_in(value for name, value in arguments.items() if name not in without)
        changed = set(_memory_of(known))
        kept = {address: _Kept(live, live.clone()) for address, live in _memory_of(read).items()}
        first = [one for address, one in kept.items() if address not in changed]
        return cls(first, [one for address, one in kept.items() if address in changed])

    @property
    def nbytes(self) -> int:
        """Device memory in use besides the arguments' own, in bytes."""
        return sum(kept.first.nbytes for kept in (*self.unchanged, *self.changed))

    def note_changes(self) -> None:
        """Find out what launches have changed. All of them must have ended."""
        for kept in [kept for kept in self.unchanged if not torch.equal(kept.live, kept.first)]:
            self.unchanged.remove(kept)
            self.changed.append(kept)

    def restore(self) -> None:
        """Restore whatever launches are known to change, on the current stream."""
        for kept in self.changed:
            kept.live.copy_(kept.first)


def _memory_of(tensors: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return the memory below tensors by address: each piece once, as one flat tensor.

    A kernel is given an address. Behind it, a view shares the memory of another tensor, and an expanded tensor has less
    memory than its size.
    """
    found = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in found:
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            found[storage.data_ptr()] = flat.view(torch.int64) if flat.numel() % 8 == 0 else flat
    return found
