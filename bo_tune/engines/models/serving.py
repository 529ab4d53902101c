"""A model as it is served: its shape, its sharding, and the engine's settings that determine its problems."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypedDict, Unpack

from bo_tune.core.choices import EngineChoice
from bo_tune.core.problem import LoraProblem
from bo_tune.core.surroundings import MOE_KERNELS
from bo_tune.engines.models.adapter import Adapter, joint_rank, joint_targets
from bo_tune.engines.models.architectures.moe import EXPERTS
from bo_tune.engines.models.engine import LORA_RANKS, MAX_BATCHED_TOKENS, MAX_SEQUENCES, serving_rank, token_ladder
from bo_tune.engines.models.experts import expert_problem, experts_of, held_experts
from bo_tune.engines.models.hub import model_shape
from bo_tune.engines.models.layers import LoraLayer, Sharding
from bo_tune.engines.models.notes import dual_stream_note, files_of, missing_slices, restricted_note
from bo_tune.engines.models.problems import DENSE_KERNELS, keys_m, layer_problems, lookup_of
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError
from bo_tune.kernels.csgmv.step import CHUNK_SIZES
from bo_tune.kernels.csgmv.step import KERNELS as CSGMV
from bo_tune.kernels.mamba.step import STATE_DTYPES

MOST_PROBLEMS = 10_000
"""Most problems of a study."""

BY_CHUNKS = (
    "SGLang reads this folder if SGLANG_LORA_CONFIG_DIR names it, and distinguishes steps only by the size of "
    "their chunks. Of the steps that share a size, the one with the middle m was measured"
)


class Serving(TypedDict, total=False):
    """Settings of a model's engine besides its size, as keyword arguments of ``ModelStudy.of``.

    Attributes:
        target_modules: the engine's ``--lora-target-modules``. If left out, the modules that the adapters change.
        adapters: files ``adapter_config.json`` or their folders. If rank or target modules are left out, they follow
            from all adapters together.
        unpacked_experts: whether adapters of experts keep gate and up apart whatever the model does, as with
            ``--enable-mixed-moe-lora-format`` and ``--enable-moe-shared-loras``.
        tower_connector: the engine's ``--enable-tower-connector-lora``.
        engine: the engine that serves it.
        chunk_size: SGLang's ``--max-lora-chunk-size``.
        state_dtype: the engine's ``--mamba-ssm-cache-dtype``; None for its default.
    """

    dtype: str | None
    add_inputs: Sequence[bool] | None
    fully_sharded: bool
    target_modules: Sequence[str] | None
    max_sequences: int
    max_batched_tokens: int | None
    draft_tokens: int
    expert_parallel: bool
    dual_stream: bool
    quantization: str | None
    adapters: Sequence[Path | str]
    unpacked_experts: bool
    tower_connector: bool
    engine: EngineChoice
    chunk_size: int
    state_dtype: str | None


@dataclass(frozen=True, slots=True)
class ModelStudy:
    """A model with its sharding and the engine's settings.

    Attributes:
        ranks: values of the engine's ``--max-lora-rank``.
        max_loras: values of the engine's ``--max-loras``.
        ms: numbers of tokens in a step.
        dtype: element type; None for the type in which the model is served.
        add_inputs: whether expand adds to its output, for all layers; None to follow the engine's lookups.
        fully_sharded: the engine's ``--fully-sharded-loras``.
        target_modules: the engine's ``--lora-target-modules``; None for every layer that takes adapters. An engine
            without that option looks all of them up, whatever its adapters change.
        max_sequences: the engine's ``--max-num-seqs``.
        max_batched_tokens: the engine's ``--max-num-batched-tokens``; None if not given.
        draft_tokens: tokens that it drafts for each sequence of a step.
        expert_parallel: the engine's ``--enable-expert-parallel``.
        dual_stream: whether it runs with ``VLLM_LORA_ENABLE_DUAL_STREAM=1``.
        quantization: the engine's ``--quantization``; None if the checkpoint decides.
        told: a note on the source of its layers; None for the table of architectures.
        engine: the engine that serves it.
        chunk_size: SGLang's ``--max-lora-chunk-size``.
        state_dtype: the engine's ``--mamba-ssm-cache-dtype``; None for its default.
    """

    shape: ModelShape
    tensor_parallel: int
    ranks: tuple[int, ...]
    max_loras: tuple[int, ...]
    ms: tuple[int, ...]
    dtype: str | None = None
    add_inputs: tuple[bool, ...] | None = None
    fully_sharded: bool = False
    target_modules: tuple[str, ...] | None = None
    max_sequences: int = MAX_SEQUENCES
    max_batched_tokens: int | None = None
    draft_tokens: int = 0
    expert_parallel: bool = False
    dual_stream: bool = False
    quantization: str | None = None
    told: str | None = None
    engine: EngineChoice = EngineChoice.VLLM
    chunk_size: int = CHUNK_SIZES[0]
    state_dtype: str | None = None

    @classmethod
    def of(
        cls,
        config: str,
        *,
        tensor_parallel: int,
        ranks: Sequence[int],
        max_loras: Sequence[int],
        ms: Sequence[int] = (),
        relative_to: Path = Path(),
        **engine: Unpack[Serving],
    ) -> "ModelStudy":
        """Read the model, and any adapters, and check that they pose problems.

        Args:
            config: a ``config.json``, its folder, or an id of the Hugging Face hub.
            ranks: values of the engine's ``--max-lora-rank``; empty for the least that serves the adapters.
            ms: numbers of tokens in a step; empty for those of ``token_ladder``.
            relative_to: folder from which a relative path of the model starts.
            engine: further settings of the engine.

        Raises:
            ModelError: the config of the model or an adapter cannot be used, or the model cannot be served like this.
        """
        return cls.with_shape(
            model_shape(config, relative_to),
            tensor_parallel=tensor_parallel,
            ranks=ranks,
            max_loras=max_loras,
            ms=ms,
            **engine,
        )

    @classmethod
    def with_shape(
        cls,
        shape: ModelShape,
        *,
        tensor_parallel: int,
        ranks: Sequence[int],
        max_loras: Sequence[int],
        ms: Sequence[int] = (),
        told: str | None = None,
        **engine: Unpack[Serving],
    ) -> "ModelStudy":
        """Return a model of a known shape as it is served, checked. Arguments and errors are those of ``of``."""
        if engine.get("tower_connector"):
            shape.check_towers()
        if engine.get("unpacked_experts"):
            shape = shape.with_unpacked_experts()
        adapters = [Adapter.from_file(Path(adapter)) for adapter in engine.get("adapters", ())]
        _check_ranks(ranks)
        targets, add_inputs = engine.get("target_modules"), engine.get("add_inputs")
        if targets is None:
            targets = joint_targets(adapters, shape)
        model = cls(
            shape=shape,
            tensor_parallel=tensor_parallel,
            ranks=joint_rank(adapters, ranks),
            max_loras=tuple(max_loras),
            ms=tuple(ms),
            dtype=engine.get("dtype"),
            add_inputs=None if add_inputs is None else tuple(add_inputs),
            fully_sharded=engine.get("fully_sharded", False),
            target_modules=None if targets is None else tuple(targets),
            max_sequences=engine.get("max_sequences", MAX_SEQUENCES),
            max_batched_tokens=engine.get("max_batched_tokens"),
            draft_tokens=engine.get("draft_tokens", 0),
            expert_parallel=engine.get("expert_parallel", False),
            dual_stream=engine.get("dual_stream", False),
            quantization=engine.get("quantization"),
            told=told,
            engine=engine.get("engine", EngineChoice.VLLM),
            chunk_size=engine.get("chunk_size", CHUNK_SIZES[0]),
            state_dtype=engine.get("state_dtype"),
        )
        model.check()
        return model if model.ms else replace(model, ms=token_ladder(model.most_tokens, model.draft_tokens))

    def check(self) -> None:
        """Refuse settings with which no engine serves the model. Raises ModelError."""
        if (count := len(self.ranks) * len(self.max_loras) * len(self.ms)) > MOST_PROBLEMS:
            raise ModelError(f"expected at most {MOST_PROBLEMS} combinations of rank, max-loras and m, got {count}")
        if self.max_batched_tokens is not None and max(self.ms, default=0) > self.max_batched_tokens:
            raise ModelError(
                f"m: expected at most {self.max_batched_tokens}, the tokens of --max-num-batched-tokens, got "
                f"{max(self.ms)}; give other values with --m"
            )
        if self.chunk_size not in CHUNK_SIZES:
            sizes = ", ".join(map(str, CHUNK_SIZES))
            raise ModelError(f"--max-lora-chunk-size: expected one of {sizes}, got {self.chunk_size}")
        if self.state_dtype is not None and self.state_dtype not in STATE_DTYPES:
            expected = ", ".join(STATE_DTYPES)
            raise ModelError(f"--mamba-ssm-cache-dtype: expected one of {expected}, got {self.state_dtype}")
        for layer in self.layers:
            for rank in self.ranks:
                layer.shrink_n(rank)
        if self.has_experts:
            self._expert_problems(MOE_KERNELS)

    @property
    def layers(self) -> list[LoraLayer]:
        """The layers that take adapters. Raises ModelError."""
        return self.shape.layers(
            self.tensor_parallel, fully_sharded=self.fully_sharded, target_modules=self.target_modules
        )

    @property
    def wrapped(self) -> list[tuple[str, tuple[int, ...]]]:
        """The modules that the engine wraps according to the table of architectures, called or not, except experts.

        Each has a full name, with ``*`` for the number of a layer, and its sizes: slices, k and n of shrink at the
        first rank (0 without shrink), and the width of each slice of expand. Raises ModelError.
        """
        sharding, found = Sharding(self.tensor_parallel, self.fully_sharded), []
        modules = self.shape.modules(self.target_modules, fully_sharded=self.fully_sharded, ranks=self.tensor_parallel)
        for module in modules:
            layer = sharding.layer(module)
            shrunk = (layer.shrink_k, layer.shrink_n(self.ranks[0])) if layer.shrink_k else (0, 0)
            sizes = len(layer.slice_sizes), *shrunk, *layer.slice_sizes
            found.append((self.shape.naming.engine_name(module), sizes))
        return found

    @property
    def most_tokens(self) -> int:
        """Most tokens in a step."""
        return self.max_batched_tokens or MAX_BATCHED_TOKENS

    @property
    def most_logits(self) -> int:
        """Most rows of hidden states that become logits in a step: one for each token to verify."""
        return self.max_sequences * (1 + self.draft_tokens)

    @property
    def has_experts(self) -> bool:
        """Whether experts take adapters."""
        return self.shape.wraps_experts(self.target_modules)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that serve its adapters."""
        if self.engine is EngineChoice.SGLANG:
            return CSGMV
        return (*DENSE_KERNELS, *MOE_KERNELS) if self.has_experts else DENSE_KERNELS

    @property
    def note(self) -> str | None:
        """How the engine must be started to make these lookups, and what happens otherwise; None for the defaults."""
        notes = [self.told] if self.told else []
        if self.engine is EngineChoice.SGLANG:
            return "; ".join([*notes, BY_CHUNKS])
        layers = self.layers
        tuned = files_of(layers, dual_stream=self.dual_stream)
        if self.target_modules is not None:
            all_layers = replace(self, target_modules=None).layers
            lacking = missing_slices(tuned, files_of(all_layers, dual_stream=self.dual_stream))
            experts = self.shape.moe is not None and not self.has_experts
            notes.append(restricted_note(self.target_modules, layers, all_layers, lacking, experts=experts))
        if self.dual_stream:
            notes.append(dual_stream_note(missing_slices(tuned, files_of(layers, dual_stream=False))))
        return "; ".join(notes) or None

    def problems_by_layer(self, kernels: Sequence[str] | None = None) -> dict[LoraProblem, tuple[str, ...]]:
        """Return the model's problems, each once, with the layers that it serves. Raises ModelError.

        Two layers pose the same problem if the engine looks up the same entry, for example expand of o_proj and
        down_proj. Lookups that differ only in the widths of narrower slices count as one problem, the first.

        Args:
            kernels: only problems of these kernels; None for all that serve the model.
        """
        kernels = self.kernels if kernels is None else kernels
        dense = [kernel for kernel in kernels if kernel in DENSE_KERNELS]
        first: dict[tuple[object, ...], LoraProblem] = {}
        served: dict[LoraProblem, tuple[str, ...]] = {}
        for kernel, slots, rank, layer in product(dense, self.max_loras, self.ranks, self.layers):
            adds = self.add_inputs or layer.adds(dual_stream=self.dual_stream)
            for m in keys_m(layer, self.ms, self.most_logits):
                for problem in layer_problems(kernel, layer, slots, rank, m, self._dtype, adds):
                    problem = first.setdefault(lookup_of(problem), problem)
                    names = served.get(problem, ())
                    served[problem] = names if layer.name in names else (*names, layer.name)
        experts = [kernel for kernel in MOE_KERNELS if kernel in kernels and self.has_experts]
        return served | (dict.fromkeys(self._expert_problems(experts), (EXPERTS,)) if experts else {})

    @property
    def _dtype(self) -> str:
        return self.dtype or self.shape.dtype

    def _expert_problems(self, kernels: Sequence[str]) -> list[LoraProblem]:
        """Return the problems of the experts. Raises ModelError if they or the rank cannot be sharded like this."""
        moe, ep, fully_sharded = experts_of(self.shape), self.expert_parallel, self.fully_sharded
        held = held_experts(self.shape, self.tensor_parallel, expert_parallel=ep, fully_sharded=fully_sharded)
        shards = held[0].shards
        wrong = [rank for rank in self.ranks if rank % shards]
        if wrong:
            raise ModelError(
                f"{self.shape.source}: fully sharded adapters: expected a rank that is a multiple of the "
                f"tensor-parallel size {shards}, got {wrong[0]}"
            )
        asked = product(self.max_loras, self.ranks, self.ms, kernels)
        return [expert_problem(kernel, moe, held, slots, rank, m, self._dtype) for slots, rank, m, kernel in asked]


def _check_ranks(ranks: Sequence[int]) -> None:
    """Refuse values that an engine's ``--max-lora-rank`` cannot have."""
    for rank in ranks:
        if rank not in LORA_RANKS:
            least = serving_rank(rank)
            advice = f"the next larger one is {least}" if least else f"the largest is {LORA_RANKS[-1]}"
            raise ModelError(
                "rank: expected a value of the engine's --max-lora-rank, one of "
                f"{', '.join(map(str, LORA_RANKS))}, got {rank}; {advice}"
            )
