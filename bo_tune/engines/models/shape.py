"""A model's Hugging Face ``config.json``: the modules that take adapters, and the experts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bo_tune.core.problem import DTYPES
from bo_tune.core.surroundings import Weights
from bo_tune.engines.models.architectures.blocks import LM_HEAD
from bo_tune.engines.models.architectures.fields import Fields, read_object
from bo_tune.engines.models.architectures.mamba import MambaShape
from bo_tune.engines.models.architectures.modules import Kind, Module, Naming, is_named
from bo_tune.engines.models.architectures.moe import EXPERTS, MoeShape
from bo_tune.engines.models.architectures.table import Architecture, architecture_of
from bo_tune.engines.models.engine import MOST_LOGITS
from bo_tune.engines.models.layers import LoraLayer, Sharding
from bo_tune.errors import ModelError, UnknownArchitectureError
from bo_tune.files import shown

CONFIG_FILE = "config.json"

MOST_LAYERS = 10_000
"""Most decoder layers of a model: more than any has, and few enough to list all names of modules."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The facts about a model that determine its lookups.

    Attributes:
        source: the source, for messages.
        architecture: the deciding entry of ``architectures``.
        linear: modules of its decoder layers that take adapters.
        outer: embedding and lm_head, if there are such modules.
        asked_outer: names of the outer modules that take adapters by default, without target modules.
        layer_count: number of decoder layers.
        naming: prefixes of the full names of its modules.
        dtype: element type in which vLLM would serve it.
        moe: the experts, if any.
        mamba: the Mamba-2 layers, if any.
        weights: storage of the weights of its linear layers in the checkpoint.
        quantization: the checkpoint's ``quant_method``; None for weights of 16 bits.
        quantized: the checkpoint's whole description of its quantization; empty for none.
        adapts_towers: whether ``--enable-tower-connector-lora`` makes vLLM adapt its towers, too.
        alone: whether its lookups are known only at a tensor-parallel size of 1.
        held: the layers that one rank of one engine calls, if that engine was asked.
    """

    name: str
    source: Path
    architecture: str
    linear: tuple[Module, ...]
    outer: tuple[Module, ...] = ()
    asked_outer: tuple[str, ...] = ()
    layer_count: int = 1
    naming: Naming = Naming()
    dtype: str = "bfloat16"
    moe: MoeShape | None = None
    mamba: MambaShape | None = None
    weights: Weights = Weights.BITS_16
    quantization: str | None = None
    quantized: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    adapts_towers: bool = False
    alone: bool = False
    held: tuple[LoraLayer, ...] | None = None

    @classmethod
    def from_file(cls, path: Path, name: str | None = None) -> "ModelShape":
        """Read a ``config.json``, or the one in a folder.

        Args:
            name: name of the model; taken from the path if left out.

        Raises:
            ModelError: the file cannot be read, lacks a field, or is of an unsupported model.
        """
        file = path / CONFIG_FILE if path.is_dir() else path
        return cls.from_config(read_object(file, "a Hugging Face model config"), file, name)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: Path, name: str | None = None) -> "ModelShape":
        """Read a parsed ``config.json``. Dimensions may be under ``text_config``. Raises ModelError."""
        text = _text_config(config, source)
        known_as, architecture = architecture_of(config, text, source)
        given = {key: value for key, value in text.items() if value is not None}
        quantization = {"quantization_config": config.get("quantization_config")}
        renamed = {here: given[theirs] for theirs, here in architecture.aliases.items() if theirs in given}
        fields = Fields({**quantization, **architecture.defaults, **given, **renamed}, source)
        return cls(
            name=name or (source.parent.name if source.name == CONFIG_FILE else source.stem),
            source=source,
            architecture=known_as,
            linear=tuple(module for block in architecture.blocks for module in block(fields)),
            outer=tuple(_outer(architecture, fields)),
            asked_outer=architecture.embeddings,
            layer_count=fields.size("num_hidden_layers", default=1, most=MOST_LAYERS),
            naming=architecture.naming,
            dtype=served_dtype(text, config),
            moe=architecture.experts(fields) if architecture.experts else None,
            mamba=architecture.mamba(fields) if architecture.mamba else None,
            weights=fields.weights,
            quantization=fields.quantization,
            quantized=fields.quantized,
            adapts_towers=architecture.adapts_towers,
            alone=architecture.alone,
        )

    def modules(
        self, target_modules: Sequence[str] | None = None, *, fully_sharded: bool = False, ranks: int = 1
    ) -> list[Module]:
        """Return the modules that an engine wraps on some tensor-parallel ranks, not sharded, except experts.

        Args:
            target_modules: the engine's ``--lora-target-modules``; None for all that vLLM supports.
            fully_sharded: the engine's ``--fully-sharded-loras``.

        Raises:
            ModelError: a target module is unknown or cannot be wrapped, or the engine calls none of the modules.
        """
        linear = [module.on(ranks) for module in self.linear]
        if target_modules is None:
            asked = [*linear, *(module for module in self.outer if module.suffix in self.asked_outer)]
            return [module for module in asked if module.shared_fully or not fully_sharded]
        self._check_known(target_modules)
        found = [module for module in (*linear, *self.outer) if self._is_targeted(module, target_modules)]
        for module in found:
            if fully_sharded and not module.shared_fully:
                raise ModelError(
                    f"{self.source}: target modules: vLLM 0.33 cannot wrap {module.suffix} with --fully-sharded-loras; "
                    "leave it out"
                )
        if not any(module.called for module in found) and not self.wraps_experts(target_modules):
            raise ModelError(
                f"{self.source}: target modules: the engine never calls the adapters of "
                f"{', '.join(target_modules)}; expected some of {', '.join(self.target_names)}"
            )
        return found

    def with_unpacked_experts(self) -> "ModelShape":
        """Return the model for an engine that keeps gate and up of experts apart in any case."""
        return self if self.moe is None else replace(self, moe=replace(self.moe, packed=False))

    def check_towers(self) -> None:
        """Refuse an engine that also adapts the towers of images and sounds, whose layers are not described here.

        A model without towers, or whose class does not support this, is served as without the option.

        Raises:
            ModelError: the engine would adapt the towers.
        """
        if self.adapts_towers:
            raise ModelError(
                f"{self.source}: --enable-tower-connector-lora: bo_tune does not know the tower layers of "
                f"{self.architecture}; record what the engine looks up, and tune that with --lookups"
            )

    def wraps_experts(self, target_modules: Sequence[str] | None) -> bool:
        """Say whether an engine wraps the experts. Their module's name chooses them, not that of a projection."""
        if self.moe is None or target_modules is None or self.held is not None:
            return self.moe is not None
        full = self.moe.engine_name(self.naming)
        return any(name == EXPERTS or is_named(full, name) for name in target_modules)

    def layers(
        self, tensor_parallel: int = 1, *, fully_sharded: bool = False, target_modules: Sequence[str] | None = None
    ) -> list[LoraLayer]:
        """Return the dense layers of ``modules`` that are called, as one of ``tensor_parallel`` ranks holds them.

        Raises:
            ModelError: a dimension is missing or not divisible, or a target module is unknown.
        """
        if tensor_parallel < 1:
            raise ModelError(f"{self.source}: expected a tensor-parallel size of at least 1, got {tensor_parallel}")
        if self.held is not None:
            return list(self.held)
        if self.alone and tensor_parallel > 1:
            raise UnknownArchitectureError(
                f"{self.source}: bo_tune knows {self.architecture} only at a tensor-parallel size of 1; record "
                "what the engine looks up, and tune that with --lookups"
            )
        modules = self.modules(target_modules, fully_sharded=fully_sharded, ranks=tensor_parallel)
        self._check_vocabulary(modules)
        sharding = Sharding(tensor_parallel, fully_sharded)
        try:
            for module in self.linear:
                sharding.check(module.on(tensor_parallel))
            return list(dict.fromkeys(sharding.layer(module) for module in modules if module.called))
        except ModelError as error:
            raise ModelError(f"{self.source}: {error}") from None

    @property
    def target_names(self) -> list[str]:
        """Last parts of names with which ``--lora-target-modules`` chooses modules that are called."""
        modules = [module for module in (*self.linear, *self.outer) if module.called]
        return sorted(set([EXPERTS] if self.moe else []).union(*(module.target_names for module in modules)))

    def _is_targeted(self, module: Module, target_modules: Sequence[str]) -> bool:
        full = self.naming.engine_name(module)
        return any(name in module.target_names or is_named(full, name) for name in target_modules)

    def _check_known(self, target_modules: Sequence[str]) -> None:
        """Refuse names that no module has. The engine would ignore them silently."""
        modules = (*self.linear, *self.outer)
        for name in target_modules:
            if self.wraps_experts([name]) or any(self._is_targeted(module, [name]) for module in modules):
                continue
            known = self.target_names
            near = get_close_matches(name.rpartition(".")[2], known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}"
            raise ModelError(
                f"{self.source}: target modules: no layer that takes adapters is called {name!r}; {advice}"
            )

    def _check_vocabulary(self, modules: Sequence[Module]) -> None:
        heads = [module for module in modules if module.kind is Kind.HEAD]
        if not heads:
            return
        (vocabulary,) = heads[0].outputs
        if not vocabulary:
            raise ModelError(f"{self.source}: vocab_size is missing, but lm_head takes adapters")
        if vocabulary > MOST_LOGITS:
            raise ModelError(
                f"{self.source}: vocab_size: expected at most {MOST_LOGITS} because lm_head takes adapters, got "
                f"{vocabulary}"
            )


def _outer(architecture: Architecture, fields: Fields) -> list[Module]:
    """Return embedding and lm_head. A missing vocabulary is an error only if lm_head takes adapters."""
    hidden = fields.size("hidden_size")
    vocabulary = 0 if fields.missing("vocab_size") else fields.size("vocab_size")
    found = [Module(architecture.embedding, Kind.EMBEDDING, 0, (hidden,))]
    return [*found, Module(LM_HEAD, Kind.HEAD, hidden, (vocabulary,))] if architecture.head else found


def _text_config(config: Mapping[str, Any], source: Path) -> Mapping[str, Any]:
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, dict):
        raise ModelError(f"{source}: text_config: expected an object, got {shown(text)}")
    return text if "hidden_size" in text else config


def served_dtype(text: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the dtype in which vLLM serves the model: the checkpoint's, or bfloat16 for float32 and quantised ones."""
    for owner in (text, config):
        for key in ("dtype", "torch_dtype"):
            value = owner.get(key)
            if isinstance(value, str):
                name = value.removeprefix("torch.")
                return name if name in DTYPES else "bfloat16"
    return "bfloat16"
