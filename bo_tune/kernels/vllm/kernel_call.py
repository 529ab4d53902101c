"""One launch of a Triton kernel, as vLLM's launcher asked for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.kernels.call import KernelCall

CONFIG_NAMES = ("block_m", "block_n", "block_k", "split_k", "group_size_m", "num_warps", "num_stages", "num_ctas")
"""Parameters that a config can decide, with the names in the tuned files. ``_named`` knows those in kernels."""


@dataclass(frozen=True, slots=True)
class CapturedCall(KernelCall):
    """A launch that a launcher would have made.

    Attributes:
        read: the values that the launcher read from the given config.
    """

    read: Mapping[str, int]

    def config(self) -> dict[str, int]:
        """Return the config that is launched, whatever was asked for.

        A value that the launcher read, but that does not show in the launch, counts as asked for. A value that it did
        not read does not count.
        """
        values = {**self.parameters, **self.options}
        found = ((name, _named(values, name)) for name in CONFIG_NAMES)
        return {**self.read, **{name: int(value) for name, value in found if value is not None}}


def _names(name: str) -> tuple[str, ...]:
    """Return the possible names of a config's parameter in a kernel: block_m, BLOCK_M or BLOCK_SIZE_M."""
    return name, name.upper(), name.upper().replace("BLOCK_", "BLOCK_SIZE_")


CONFIG_PARAMETERS = frozenset(known for name in CONFIG_NAMES for known in _names(name))
"""Parameters that a config can decide, with all their names in kernels."""


def _named(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a parameter, whichever of its names the kernel uses."""
    return next((values[known] for known in _names(name) if known in values), None)
