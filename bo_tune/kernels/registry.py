"""The kernels by name, without torch or triton."""

from collections.abc import Mapping
from types import MappingProxyType

from bo_tune.errors import InputError
from bo_tune.kernels.lora_expand.spec import LoraExpandSpec
from bo_tune.kernels.lora_shrink.spec import LoraShrinkSpec
from bo_tune.kernels.moe.spec import MOE_SPECS
from bo_tune.kernels.spec import KernelSpec

KERNELS: Mapping[str, KernelSpec] = MappingProxyType(
    {spec.name: spec for spec in (LoraShrinkSpec(), LoraExpandSpec(), *MOE_SPECS)}
)
"""All kernels, in the order a layer runs them."""


def kernel_spec(name: str) -> KernelSpec:
    """Return what is known of a kernel.

    Raises:
        InputError: for an unknown name.
    """
    if name not in KERNELS:
        raise InputError(f"unknown kernel {name!r}; the kernels are {', '.join(KERNELS)}")
    return KERNELS[name]
