"""One launch of a Triton kernel, as vLLM's launcher asked for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.kernels.call import KernelCall

CONFIG_NAMES = ("block_m", "block_n", "block_k", "split_k", "group_size_m", "num_warps", "num_stages", "num_ctas")
"""What a config can decide, by the names in the tuned files; see ``_named`` for those in kernels."""


@dataclass(frozen=True, slots=True)
class CapturedCall(KernelCall):
    """What a launcher would have launched.

    Attributes:
        read: what the launcher read of the config that it was given.
    """

    read: Mapping[str, int]

    def config(self) -> dict[str, int]:
        """Return the config that is launched, whatever was asked for.

        What was read and went where it is not seen counts as asked for; what was not read does not count.
        """
        values = {**self.parameters, **self.options}
        found = ((name, _named(values, name)) for name in CONFIG_NAMES)
        return {**self.read, **{name: int(value) for name, value in found if value is not None}}


def _names(name: str) -> tuple[str, ...]:
    """The names that a parameter of a config may go by in a kernel: block_m, BLOCK_M or BLOCK_SIZE_M."""
    return name, name.upper(), name.upper().replace("BLOCK_", "BLOCK_SIZE_")


CONFIG_PARAMETERS = frozenset(known for name in CONFIG_NAMES for known in _names(name))
"""What a config can decide, by all names that kernels have for it."""


def _named(values: Mapping[str, Any], name: str) -> Any:
    """Return the value that a kernel has under one of the names it may go by."""
    return next((values[known] for known in _names(name) if known in values), None)
