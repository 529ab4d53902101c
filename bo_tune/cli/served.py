"""What the command line says of a model and of the engine that serves it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bo_tune.cli.options import integers, names
from bo_tune.engines.models.engine import MAX_SEQUENCES
from bo_tune.errors import InputError

if TYPE_CHECKING:
    from bo_tune.engines.models.serving import ModelStudy


@dataclass(frozen=True, slots=True)
class Served:
    """What the command line says of a model and the engine that serves it; empty where it says nothing."""

    model: str | None
    tensor_parallel: int | None
    max_loras: list[str] | None
    rank: list[str] | None
    fully_sharded: bool
    target_modules: list[str] | None
    adapters: list[str] | None
    expert_parallel: bool = False
    max_num_seqs: int | None = None
    dual_stream: bool = False

    def given(self) -> list[str]:
        """Return the options that were given."""
        values = {
            "--model": self.model,
            "--tp": self.tensor_parallel,
            "--max-loras": self.max_loras,
            "--rank": self.rank,
            "--fully-sharded": self.fully_sharded,
            "--target-modules": self.target_modules,
            "--adapter": self.adapters,
            "--expert-parallel": self.expert_parallel,
            "--max-num-seqs": self.max_num_seqs,
            "--dual-stream": self.dual_stream,
        }
        return [name for name, value in values.items() if value]

    def study(self, ms: Sequence[int]) -> "ModelStudy":
        """Return the model as it is served.

        Raises:
            InputError: an option is missing or wrong, or the model cannot be served like this.
        """
        if not self.model:
            raise InputError("--model: name a config.json, its folder, or the id of a model")
        for name, value in {"--max-loras": self.max_loras, "--rank": self.rank or self.adapters}.items():
            if not value:
                raise InputError(f"{name}: needed with --model")
        from bo_tune.engines.models.serving import ModelStudy

        return ModelStudy.of(
            self.model,
            tensor_parallel=self.tensor_parallel or 1,
            ranks=integers(self.rank, "--rank"),
            max_loras=integers(self.max_loras, "--max-loras"),
            ms=ms,
            fully_sharded=self.fully_sharded,
            target_modules=names(self.target_modules),
            adapters=self.adapters or (),
            expert_parallel=self.expert_parallel,
            max_sequences=self.max_num_seqs or MAX_SEQUENCES,
            dual_stream=self.dual_stream,
        )
