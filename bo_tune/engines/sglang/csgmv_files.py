"""The files in which SGLang looks up configs of its chunked LoRA kernels: their names, and what may stand in them.

``$SGLANG_LORA_CONFIG_DIR/csgmv_configs/triton_3_6_0/lora_shrink,K=4096,R=16,S=3,device=NVIDIA_H200.json`` holds a
config for each of some sizes of chunks, of which the nearest counts. Facts of SGLang 0.5.23.
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
"""What their names look like, for people."""

ROOT, RELEASE = "csgmv_configs", "triton_"
"""The folder within the one that is named to the engine, and how the folders in it begin: by release of Triton."""

UNKNOWN = "0_unknown"
"""Stands for a release that nobody knows: the engine looks there last."""

_NAME = re.compile(r"lora_(?P<kind>shrink|expand),K=\d+,R=\d+,S=\d+,device=(?P<device>[^,]+)\.json")

BLOCKS = ("BLOCK_N", "BLOCK_K")
"""What the engine needs of a config; the rest may be missing."""

REGISTERS = "maxnreg"

LEAST_BLOCK = 16
"""Fewest elements along a side of a tile that is multiplied."""

MOST_REGISTERS = NO_LIMIT


class CsgmvFile(NamedTuple):
    """What the name of such a file says: the kernel, and the GPU as it is written there."""

    kernel: str
    device: str

    @classmethod
    def of(cls, name: str) -> "CsgmvFile | None":
        """Take a name apart; None for one that the engine asks for on no GPU."""
        match = None if name.endswith(PROVENANCE_SUFFIX) else _NAME.fullmatch(name)
        return cls(SHRINK if match["kind"] == "shrink" else EXPAND, match["device"]) if match else None

    @property
    def names(self) -> tuple[str, ...]:
        """What the engine reads of a config."""
        return (*BLOCKS, *TRITONS, REGISTERS) if self.kernel == EXPAND else (*BLOCKS, *TRITONS)

    def fault(self, config: object) -> str | None:
        """Return why the kernel cannot be launched with a config, or None."""
        if not isinstance(config, dict):
            return f"expected a config, got {shown(config)}"
        missing = [name for name in BLOCKS if name not in config]
        if missing:
            return f"no {missing[0]}"
        read = {name: config[name] for name in self.names if config.get(name) is not None or name in BLOCKS}
        limit = read.pop(REGISTERS, NO_LIMIT)
        if type(limit) is not int or not 1 <= limit <= MOST_REGISTERS:
            return f"{REGISTERS}: expected an integer from 1 to {MOST_REGISTERS}, got {shown(limit)}"
        small = next((name for name in BLOCKS if type(read[name]) is int and 0 < read[name] < LEAST_BLOCK), None)
        if small:
            return f"{small}: expected at least {LEAST_BLOCK}, got {read[small]}"
        return numbers_fault({name.lower(): value for name, value in read.items()})

    def whole(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Return what a config comes to, with what is left to Triton."""
        said = {name: config[name] for name in self.names if config.get(name) is not None}
        left = {**TRITONS, REGISTERS: NO_LIMIT}
        return {name: said[name] if name in said else left[name] for name in self.names}


def file_name(step: CsgmvStep, gpu: str) -> str:
    """Return the name of the file in which a step's config is looked up.

    Args:
        gpu: as ``torch.cuda.get_device_name`` gives it.
    """
    kind = step.kernel.partition("_")[2]
    return f"lora_{kind},K={step.wide},R={step.rank},S={step.slices},device={device_of(gpu)}.json"


def device_of(gpu: str) -> str:
    """Return a GPU's name as it stands in the names of these files: hyphens stay."""
    return gpu.replace(" ", "_")


def subfolder(triton: str | None) -> Path:
    """Return where files go below the folder that is named to the engine.

    Args:
        triton: the release with which configs were measured. The engine looks for its own first, and then through all
            others; None for none that is known.
    """
    return Path(ROOT, f"{RELEASE}{(triton or UNKNOWN).replace('.', '_')}")


def places(folder: Path, triton: str | None = None) -> list[Path]:
    """Return the folders in which the engine looks for a file, in its order: that of its own Triton, then the others
    from the last name to the first.

    Args:
        folder: what is named to the engine, or one of these folders itself.
        triton: the engine's; None for one that is not known.
    """
    root = folder / ROOT
    if not root.is_dir():
        return [folder]
    own = subfolder(triton).name if triton else None
    names = sorted((path.name for path in root.iterdir() if path.name.startswith(RELEASE)), reverse=True)
    return [root / name for name in (*((own,) if own in names else ()), *(name for name in names if name != own))]


def key_of(keys: Iterable[str], chunk: int) -> str | None:
    """Return the key under which the engine looks a size of chunks up: the nearest, of equally near ones the first.

    Returns:
        None where one of the keys is no number, or there is none, at which the engine stops.
    """
    numbers: dict[int, str] = {}
    for key in keys:
        try:
            numbers[int(key)] = key  # of keys that are one number the last one's config counts, in the first's place
        except ValueError:
            return None
    return numbers[min(numbers, key=lambda number: abs(number - chunk))] if numbers else None
