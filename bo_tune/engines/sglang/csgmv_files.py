"""The files in which SGLang looks up configs of its chunked LoRA kernels: their names and contents.

``$SGLANG_LORA_CONFIG_DIR/csgmv_configs/triton_3_6_0/lora_shrink,K=4096,R=16,S=3,device=NVIDIA_H200.json`` holds configs
for some chunk sizes. The engine takes the one of the nearest size. Facts of SGLang 0.5.23.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bo_tune.engines.provenance import PROVENANCE_SUFFIX
from bo_tune.engines.vllm.launchable import numbers_fault
from bo_tune.files import shown
from bo_tune.kernels.csgmv.spec import NO_LIMIT, TRITONS
from bo_tune.kernels.csgmv.step import EXPAND, SHRINK, CsgmvStep

PATTERN = "lora_*,K=*,R=*,S=*,device=*.json"
"""Pattern of their names, for people."""

ROOT, RELEASE = "csgmv_configs", "triton_"
"""The subfolder of the engine's folder, and the start of the names of its own subfolders, one for each Triton
release."""

UNKNOWN = "0_unknown"
"""Stands for an unknown release. The engine looks there last."""

_NAME = re.compile(r"lora_(?P<kind>shrink|expand),K=\d+,R=\d+,S=\d+,device=(?P<device>[^,]+)\.json")

BLOCKS = ("BLOCK_N", "BLOCK_K")
"""Parameters that the engine needs. Others may be missing."""

REGISTERS = "maxnreg"

LEAST_BLOCK = 16
"""Fewest elements along a side of a tile that is multiplied."""

MOST_REGISTERS = NO_LIMIT


class CsgmvFile(NamedTuple):
    """The parts of such a file's name: the kernel, and the GPU as written there."""

    kernel: str
    device: str

    @classmethod
    def of(cls, name: str) -> "CsgmvFile | None":
        """Parse a name; None if the engine does not ask for it on any GPU."""
        match = None if name.endswith(PROVENANCE_SUFFIX) else _NAME.fullmatch(name)
        return cls(SHRINK if match["kind"] == "shrink" else EXPAND, match["device"]) if match else None

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that the engine reads."""
        return (*BLOCKS, *TRITONS, REGISTERS) if self.kernel == EXPAND else (*BLOCKS, *TRITONS)

    def fault(self, config: object) -> str | None:
        """Return why the kernel cannot be launched with a config, or None."""
        if not isinstance(config, dict):
            return f"expected a config, got {shown(config)}"
        missing = [name for name in BLOCKS if name not in config]
        if missing:
            return f"{missing[0]} is missing"
        read = {name: config[name] for name in self.names if config.get(name) is not None or name in BLOCKS}
        limit = read.pop(REGISTERS, NO_LIMIT)
        if type(limit) is not int or not 1 <= limit <= MOST_REGISTERS:
            return f"{REGISTERS}: expected an integer from 1 to {MOST_REGISTERS}, got {shown(limit)}"
        small = next((name for name in BLOCKS if type(read[name]) is int and 0 < read[name] < LEAST_BLOCK), None)
        if small:
            return f"{small}: expected at least {LEAST_BLOCK}, got {read[small]}"
        return numbers_fault({name.lower(): value for name, value in read.items()})

    def whole(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Return a config completed with Triton's defaults."""
        said = {name: config[name] for name in self.names if config.get(name) is not None}
        left = {**TRITONS, REGISTERS: NO_LIMIT}
        return {name: said[name] if name in said else left[name] for name in self.names}


def file_name(step: CsgmvStep, gpu: str) -> str:
    """Return the name of the file in which a step's config is looked up.

    Args:
        gpu: name as given by ``torch.cuda.get_device_name``.
    """
    kind = step.kernel.partition("_")[2]
    return f"lora_{kind},K={step.wide},R={step.rank},S={step.slices},device={device_of(gpu)}.json"


def device_of(gpu: str) -> str:
    """Return a GPU's name as it stands in the names of these files. Hyphens stay."""
    return gpu.replace(" ", "_")


def subfolder(triton: str | None) -> Path:
    """Return the place of files below the engine's folder.

    Args:
        triton: the release with which configs were measured; None if unknown. The engine looks for its own release
            first, and then through all others.
    """
    return Path(ROOT, f"{RELEASE}{(triton or UNKNOWN).replace('.', '_')}")


def places(folder: Path, triton: str | None = None) -> list[Path]:
    """Return the folders in which the engine looks for a file, in its order.

    The folder of its own Triton comes first, then the others from the last name to the first.

    Args:
        folder: the engine's folder, or one of these folders itself.
        triton: the engine's release of Triton; None if unknown.
    """
    root = folder / ROOT
    if not root.is_dir():
        return [folder]
    own = subfolder(triton).name if triton else None
    names = sorted((path.name for path in root.iterdir() if path.name.startswith(RELEASE)), reverse=True)
    return [root / name for name in (*((own,) if own in names else ()), *(name for name in names if name != own))]


def key_of(keys: Iterable[str], chunk: int) -> str | None:
    """Return the key under which the engine looks up a chunk size: the nearest, or the first of several.

    Returns:
        None if there are no keys, or one of them is not a number. In both cases the engine stops.
    """
    numbers: dict[int, str] = {}
    for key in keys:
        try:
            numbers[int(key)] = key  # if several keys are one number, the last config counts, in the first's place
        except ValueError:
            return None
    return numbers[min(numbers, key=lambda number: abs(number - chunk))] if numbers else None
