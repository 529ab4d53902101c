"""The installed SGLang's kernels by name: a kernel source like ``kernels.operations``."""

from functools import cache

from bo_tune.errors import InputError
from bo_tune.kernels.csgmv.step import KERNELS
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.sglang.csgmv import SglangCsgmv


@cache
def operation(name: str) -> SglangCsgmv:
    """Return the operation of one of SGLang's kernels.

    Raises:
        InputError: the name is unknown, or SGLang does not have the kernel.
        SglangError: the installed SGLang has no form of it that is known here.
    """
    kernel_spec(name)
    if name not in KERNELS:
        raise InputError(f"expected an SGLang kernel that bo_tune tunes, {' or '.join(KERNELS)}, got {name}")
    return SglangCsgmv(name)
