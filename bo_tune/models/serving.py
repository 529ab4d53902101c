"""A model as it is served: its shape, its sharding, and the settings of the engine that decide on its problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bo_tune.errors import ModelError
from bo_tune.models.adapter import Adapter
from bo_tune.models.engine import MAX_SEQUENCES
from bo_tune.models.experts import MOE_KERNELS, ExpertSharding, expert_problems
from bo_tune.models.hub import model_shape
from bo_tune.models.layers import LoraLayer
from bo_tune.models.problems import DENSE_KERNELS, problems_by_layer
from bo_tune.models.shape import ModelShape
from bo_tune.problem import Problem


@dataclass(frozen=True, slots=True)
class ModelStudy:
    """A model with its sharding and the engine's settings.

    Attributes:
        ranks: values of the engine's ``--max-lora-rank``.
        max_loras: values of the engine's ``--max-loras``.
        ms: tokens in a step.
        dtype: element type; None for the one the model is served in.
        add_inputs: whether expand adds to its output; serving uses True.
        fully_sharded: the engine's ``--fully-sharded-loras``.
        target_modules: the engine's ``--lora-target-modules``; None for every layer that takes adapters, which
            an engine without that option looks up whatever its adapters change.
        max_sequences: the engine's ``--max-num-seqs``.
        expert_parallel: the engine's ``--enable-expert-parallel``.
    """

    shape: ModelShape
    tensor_parallel: int
    ranks: tuple[int, ...]
    max_loras: tuple[int, ...]
    ms: tuple[int, ...]
    dtype: str | None = None
    add_inputs: tuple[bool, ...] = (True,)
    fully_sharded: bool = False
    target_modules: tuple[str, ...] | None = None
    max_sequences: int = MAX_SEQUENCES
    expert_parallel: bool = False

    @classmethod
    def of(
        cls,
        config: str,
        *,
        tensor_parallel: int,
        ranks: Sequence[int],
        max_loras: Sequence[int],
        ms: Sequence[int],
        dtype: str | None = None,
        add_inputs: Sequence[bool] = (True,),
        fully_sharded: bool = False,
        target_modules: Sequence[str] | None = None,
        expert_parallel: bool = False,
        adapter: str | None = None,
        relative_to: Path = Path(),
    ) -> "ModelStudy":
        """Read the model, and the adapter where one is named, and check that they pose problems.

        Args:
            config: a ``config.json``, its folder, or an id of the Hugging Face hub.
            ranks: values of the engine's ``--max-lora-rank``; empty for the least that serves the adapter.
            adapter: an ``adapter_config.json`` or its folder; gives rank and target modules where they are left out.
            relative_to: folder that relative paths start from.

        Raises:
            ModelError: the model's config or the adapter's cannot be used, or the model not sharded like this.
        """
        told = Adapter.from_file(relative_to / adapter) if adapter else None
        model = cls(
            shape=model_shape(config, relative_to),
            tensor_parallel=tensor_parallel,
            ranks=_ranks(told, ranks),
            max_loras=tuple(max_loras),
            ms=tuple(ms),
            dtype=dtype,
            add_inputs=tuple(add_inputs),
            fully_sharded=fully_sharded,
            target_modules=_targets(told, target_modules),
            expert_parallel=expert_parallel,
        )
        for layer in model.layers:
            for rank in model.ranks:
                layer.shrink_n(rank)
        if model.has_experts:
            model.expert_problems(MOE_KERNELS)
        return model

    @property
    def layers(self) -> list[LoraLayer]:
        """The layers that take adapters. Raises ModelError."""
        return self.shape.layers(
            self.tensor_parallel, fully_sharded=self.fully_sharded, target_modules=self.target_modules
        )

    @property
    def has_experts(self) -> bool:
        """Whether experts take adapters."""
        return self.shape.wraps_experts(self.target_modules)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that serve it."""
        return (*DENSE_KERNELS, *MOE_KERNELS) if self.has_experts else DENSE_KERNELS

    def expert_problems(self, kernels: Sequence[str]) -> dict[Problem, tuple[str, ...]]:
        """Return the problems of the experts for some kernels. Raises ModelError."""
        return expert_problems(
            self.shape,
            ExpertSharding(self.tensor_parallel, self.expert_parallel, self.fully_sharded),
            ranks=self.ranks,
            max_loras=self.max_loras,
            ms=self.ms,
            kernels=kernels,
            dtype=self.dtype or self.shape.dtype,
        )

    @property
    def note(self) -> str | None:
        """What the engine must be told for these to be all of its problems; None for nothing."""
        if self.target_modules is None:
            return None
        names = " ".join(self.target_modules)
        return f"these are all lookups of an engine started with --lora-target-modules {names}, and not of any other"

    def problems_by_layer(self, kernels: Sequence[str] | None = None) -> dict[Problem, tuple[str, ...]]:
        """Return the model's problems, each once, with the layers it serves. Raises ModelError.

        Args:
            kernels: problems of these alone; None for all that serve the model.
        """
        kernels = self.kernels if kernels is None else kernels
        experts = [kernel for kernel in kernels if kernel in MOE_KERNELS] if self.has_experts else []
        dense = problems_by_layer(
            self.layers,
            ranks=self.ranks,
            max_loras=self.max_loras,
            ms=self.ms,
            kernels=[kernel for kernel in kernels if kernel in DENSE_KERNELS],
            dtype=self.dtype or self.shape.dtype,
            add_inputs=self.add_inputs,
            max_sequences=self.max_sequences,
        )
        return dense | (self.expert_problems(experts) if experts else {})


def _ranks(adapter: Adapter | None, ranks: Sequence[int]) -> tuple[int, ...]:
    """Return the values of ``--max-lora-rank``: those named, or else the least that serves the adapter."""
    if adapter is None:
        return tuple(ranks)
    small = [rank for rank in ranks if rank < adapter.rank]
    if small:
        raise ModelError(
            f"{adapter.source}: r: expected at most the rank {small[0]} that is served, got {adapter.rank}"
        )
    return tuple(ranks) or (adapter.serving_rank,)


def _targets(adapter: Adapter | None, target_modules: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the target modules: those named, or else the adapter's."""
    if target_modules is not None:
        return tuple(target_modules)
    return adapter.target_modules if adapter else None
