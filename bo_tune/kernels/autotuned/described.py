"""The arguments of a call without their contents: enough to make similar ones in another process.

A tensor is described by its type, shape, strides, and the remainder of its address divided by 16. Everything else is
described by its value.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune.core.problem import MOST, Size, is_word
from bo_tune.errors import InputError
from bo_tune.kernels.call import ALIGNMENT
from bo_tune.kernels.operation import META

Described = Any
"""A value that JSON can hold."""

DIGITS = 10
"""Number of hexadecimal digits of a digest that stands for a longer text."""

LONGEST_WORD = 60
"""Longest word in the name of a problem, in characters."""


def described(name: str, value: Any, known: dict[int, str]) -> Described:
    """Describe an argument.

    Args:
        known: names of the tensors described so far, by address. A tensor that is passed twice is made once.

    Raises:
        InputError: an argument of its kind could not be made again.
    """
    if isinstance(value, torch.Tensor):
        return _of_tensor(name, value, known)
    if isinstance(value, TensorDescriptor):
        said = {"shape": list(value.shape), "strides": list(value.strides), "block_shape": list(value.block_shape)}
        return {"descriptor": _of_tensor(name, value.base, known), **said, "padding": getattr(value, "padding", "zero")}
    if isinstance(value, tl.constexpr):
        return described(name, value.value, known)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, tl.dtype):
        return {"triton": str(value)}
    if isinstance(value, torch.dtype):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, (tuple, list)):
        return {"tuple": [described(f"{name}[{place}]", one, known) for place, one in enumerate(value)]}
    raise InputError(
        f"{name} is a {type(value).__name__}, which cannot be recreated in another process; describe the kernel "
        "with bo_tune.Kernel and its inputs= instead"
    )


def _of_tensor(name: str, tensor: torch.Tensor, known: dict[int, str]) -> Described:
    address = tensor.data_ptr()
    said = {
        "tensor": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "strides": list(tensor.stride()),
        "offset": address % ALIGNMENT,
    }
    first = known.setdefault(address, name) if tensor.numel() else name
    return said if first == name else {**said, "same": first}


def made(said: Mapping[str, Described], device: Any) -> dict[str, Any]:
    """Make arguments that match their descriptions. Floating-point numbers are random, integers are zero.

    Raises:
        InputError: this package cannot have written the description.
    """
    tensors: dict[str, torch.Tensor] = {}
    try:
        return {name: _made(name, one, device, tensors) for name, one in said.items()}
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f"the recorded arguments cannot be recreated: {type(error).__name__}: {error}") from error


def _made(name: str, said: Described, device: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(said, dict):
        return said
    if "tensor" in said:
        return tensors.setdefault(name, _tensor(said, device, tensors))
    if "descriptor" in said:
        base = _made(name, said["descriptor"], device, tensors)
        return TensorDescriptor(base, said["shape"], said["strides"], said["block_shape"], **_padding(said))
    if "float" in said:
        return float(said["float"])
    if "triton" in said:
        return tl.dtype(said["triton"])
    if "torch" in said:
        return getattr(torch, said["torch"])
    return tuple(_made(f"{name}[{place}]", one, device, tensors) for place, one in enumerate(said["tuple"]))


def _padding(said: Mapping[str, Described]) -> dict[str, str]:
    return {} if said["padding"] == "zero" else {"padding": said["padding"]}


def _tensor(said: Mapping[str, Described], device: Any, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    dtype, shape, strides = getattr(torch, said["tensor"]), said["shape"], said["strides"]
    if "same" in said:
        return tensors[said["same"]].as_strided(shape, strides)
    ahead, rest = divmod(said["offset"], dtype.itemsize)
    ahead = 0 if rest else ahead
    count = (
        ahead + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if all(shape) else 0
    )
    return _filled(count, dtype, device).as_strided(shape, strides, ahead if count else 0)


def _filled(count: int, dtype: torch.dtype, device: Any) -> torch.Tensor:
    if device == META:
        return torch.empty(count, dtype=dtype, device=device)
    if dtype.is_complex or (dtype.is_floating_point and dtype.itemsize > 1):
        return torch.randn(count, dtype=dtype, device=device)
    if dtype.is_floating_point:
        return torch.randn(count, dtype=torch.float16, device=device).to(dtype)
    return torch.zeros(count, dtype=dtype, device=device)


def types_of(said: Mapping[str, Described]) -> str:
    """Return the types of described tensors, in order, as a word."""
    names = [str((one.get("descriptor") or one).get("tensor", "")) for one in said.values() if isinstance(one, dict)]
    return types_word([name for name in names if name])


def types_word(names: Iterable[str]) -> str:
    """Return types, in order, as a word: ``3xfloat16-int32``."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = name, runs[-1][1] + 1
        else:
            runs.append((name, 1))
    return _short("-".join(f"{count}x{name}" if count > 1 else name for name, count in runs) or "none")


def size_of(said: Described) -> Size:
    """Return a described argument as it appears in the name of a problem."""
    if isinstance(said, float) or (isinstance(said, int) and abs(said) <= MOST):
        return said
    if isinstance(said, str) and is_word(said):
        return _short(said)
    return "None" if said is None else f"v{digest_of(said)}"


def _short(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else f"v{digest_of(word)}"


def digest_of(value: Described) -> str:
    """Return a word that stands for a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]
