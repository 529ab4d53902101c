"""The kernels by name, without torch or triton: the project's, and those that a program defined itself."""

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
"""The LoRA kernels that engines look configs up for, in the order a layer runs them."""

OF_BASE_MODEL: Mapping[str, AnySpec] = MappingProxyType({spec.name: spec for spec in (ExpertsSpec(), MambaSpec())})
"""The base model's kernels that engines look configs up for."""

OF_SGLANG: Mapping[str, AnySpec] = MappingProxyType({spec.name: spec for spec in CSGMV_SPECS})
"""The kernels of another engine's that it looks configs up for."""

DECIDING: Mapping[str, AnySpec] = MappingProxyType({spec.name: spec for spec in ONE_LAUNCH_SPECS})
"""The kernels that engines launch in place of some of ``KERNELS``, and that have no files (``KernelSpec.decides``)."""

IN_ORDER: Sequence[str] = (*DECIDING, *KERNELS, *OF_BASE_MODEL, *OF_SGLANG)
"""All kernels of engines, in the order in which they are searched and shown: those that decide come first."""

_DEFINED: dict[str, AnySpec] = {}


def define(spec: AnySpec) -> None:
    """Let a kernel of the program be known by its name in this process, in place of an earlier one of that name.

    Raises:
        InputError: the name is one of ``IN_ORDER``.
    """
    if spec.name in IN_ORDER:
        raise InputError(f"a kernel cannot be named {spec.name!r}: that is one of bo_tune's own")
    _DEFINED[spec.name] = spec


def is_known(name: str) -> bool:
    """Say whether this process knows a kernel: a database may hold studies of others."""
    return name in IN_ORDER or name in _DEFINED


def kernel_spec(name: str) -> AnySpec:
    """Return what a search knows of a kernel. Raises InputError for an unknown name."""
    others = (_DEFINED, DECIDING, OF_BASE_MODEL, OF_SGLANG)
    return next((specs[name] for specs in others if name in specs), None) or engine_spec(name)


def engine_spec(name: str) -> EngineSpec:
    """Return what is known of a kernel that engines look configs up for. Raises InputError for an unknown name."""
    if name not in KERNELS:
        raise InputError(f"unknown kernel {name!r}; the kernels are {', '.join(KERNELS)}")
    return KERNELS[name]
