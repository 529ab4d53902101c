"""An adapter's ``adapter_config.json``, as PEFT writes it: its rank, and the modules it changes."""

from dataclasses import dataclass
from pathlib import Path

from bo_tune.errors import ModelError
from bo_tune.models.engine import LORA_RANKS, serving_rank
from bo_tune.models.fields import Fields, read_object

ADAPTER_FILE = "adapter_config.json"

ALL_LINEAR = "all-linear"
"""PEFT's name for every linear layer but the head."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter says of itself.

    Attributes:
        source: the file.
        rank: its r.
        target_modules: names of the modules it changes; None for all linear layers, or where it does not say.
    """

    source: Path
    rank: int
    target_modules: tuple[str, ...] | None

    @classmethod
    def from_file(cls, path: Path) -> "Adapter":
        """Read an ``adapter_config.json``, or the one in a folder.

        Raises:
            ModelError: it cannot be read, or a field is missing or of the wrong type.
        """
        file = path / ADAPTER_FILE if path.is_dir() else path
        config = read_object(file, "a PEFT adapter config")
        return cls(file, Fields(config, file).size("r"), _modules(config.get("target_modules"), file))

    @property
    def serving_rank(self) -> int:
        """The least ``--max-lora-rank`` that serves it. Raises ModelError where there is none."""
        rank = serving_rank(self.rank)
        if rank is None:
            raise ModelError(f"{self.source}: r: expected at most {LORA_RANKS[-1]}, got {self.rank}")
        return rank


def _modules(value: object, source: Path) -> tuple[str, ...] | None:
    if value is None or value == ALL_LINEAR:
        return None
    if isinstance(value, str):
        raise ModelError(
            f"{source}: target_modules: expected a list of names, got the pattern {value!r}; "
            "name what it matches with --target-modules, or target_modules in a study file"
        )
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise ModelError(f"{source}: target_modules: expected a list of names, got {value!r}")
    return tuple(dict.fromkeys(value))
