"""All kernels by name, without torch or triton: the project's, and those that a program defined itself."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from bo_tune.errors import InputError
from bo_tune.kernels.csgmv.spec import CSGMV_SPECS
from bo_tune.kernels.experts.spec import ExpertsSpec
from bo_tune.kernels.lora.spec import LoraExpandSpec, LoraShrinkSpec
from bo_tune.kernels.mamba.spec import MambaSpec
from bo_tune.kernels.moe.spec import MOE_SPECS, ONE_LAUNCH_SPECS
from bo_tune.kernels.spec import AnySpec, EngineSpec

KERNELS: Mapping[str, EngineSpec] = MappingProxyType(
    {spec.name: spec for spec in (LoraShrinkSpec(), LoraExpandSpec(), *MOE_SPECS)}
)
"""The LoRA kernels for which engines look up configs, in the order in which a layer runs them."""

OF_BASE_MODEL: Mapping[str, AnySpec] = MappingProxyType({spec.name: spec for spec in (ExpertsSpec(), MambaSpec())})
"""The base model's kernels for which engines look up configs."""

OF_SGLANG: Mapping[str, AnySpec] = MappingProxyType({spec.name: spec for spec in CSGMV_SPECS})
"""The kernels for which SGLang looks up configs."""

DECIDING: Mapping[str, AnySpec] = MappingProxyType({spec.name: spec for spec in ONE_LAUNCH_SPECS})
"""Kernels that engines launch in place of some of ``KERNELS``. They have no files (``KernelSpec.decides``)."""

IN_ORDER: Sequence[str] = (*DECIDING, *KERNELS, *OF_BASE_MODEL, *OF_SGLANG)
"""All kernels of engines, in the order in which they are searched and shown. Deciding kernels come first."""

_DEFINED: dict[str, AnySpec] = {}


def define(spec: AnySpec) -> None:
    """Register a kernel of the program in this process. It replaces an earlier one of the same name.

    Raises:
        InputError: the name is one of ``IN_ORDER``.
    """
    if spec.name in IN_ORDER:
        raise InputError(
            f"a kernel cannot be called {spec.name!r}, because bo_tune has a kernel of this name; give it another name="
        )
    _DEFINED[spec.name] = spec


def is_known(name: str) -> bool:
    """Say whether this process knows a kernel. A database may hold studies of others."""
    return name in IN_ORDER or name in _DEFINED


def kernel_spec(name: str) -> AnySpec:
    """Return the spec of a kernel. Raises InputError for an unknown name."""
    others = (_DEFINED, DECIDING, OF_BASE_MODEL, OF_SGLANG)
    return next((specs[name] for specs in others if name in specs), None) or engine_spec(name)


def engine_spec(name: str) -> EngineSpec:
    """Return the spec of a kernel for which engines look up configs. Raises InputError for an unknown name."""
    if name not in KERNELS:
        raise InputError(f"unknown kernel {name!r}; expected one of {', '.join(KERNELS)}")
    return KERNELS[name]
