"""An adapter as PEFT writes it: the rank that it needs, and the modules of a model that it changes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bo_tune.engines.models.adapter_config import AdapterConfig, read_config
from bo_tune.engines.models.architectures.fields import read_object
from bo_tune.engines.models.architectures.modules import Kind, Module, suffixes
from bo_tune.engines.models.architectures.moe import EXPERTS
from bo_tune.engines.models.engine import LORA_RANKS, serving_rank
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError

ADAPTER_FILE = "adapter_config.json"

ALL_LINEAR = "all-linear"
"""PEFT's name for every linear layer except the head."""

WEIGHT = ".weight"
"""End of the name of a linear module's tensor."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's config, checked.

    Attributes:
        source: the file.
    """

    source: Path
    config: AdapterConfig

    @classmethod
    def from_file(cls, path: Path) -> "Adapter":
        """Read an ``adapter_config.json``, or the one in a folder.

        Raises:
            ModelError: it cannot be read, a field is missing or of the wrong type, or vLLM refuses the adapter.
        """
        file = path / ADAPTER_FILE if path.is_dir() else path
        try:
            return cls(file, read_config(read_object(file, "a PEFT adapter config")))
        except ValueError as error:
            raise ModelError(f"{file}: {error}") from None

    @property
    def rank(self) -> int:
        """The largest rank of its modules."""
        return self.config.largest_rank

    @property
    def rank_field(self) -> str:
        """The field that gives the largest rank."""
        return "r" if self.rank == self.config.r else "rank_pattern"

    def target_modules(self, shape: ModelShape) -> tuple[str, ...] | None:
        """Return names of the engine's modules that the adapter changes; None if it changes every linear layer.

        Raises:
            ModelError: it changes no module of the model, or saves a whole module that the model does not have.
        """
        if self.config.modules_to_save:
            saved = ", ".join(self.config.modules_to_save)
            raise ModelError(
                f"{self.source}: modules_to_save: {saved}: {shape.architecture} has no classification head, so "
                "the engine refuses the adapter"
            )
        if not self.config.exclude_modules and self._changes_all_linear:
            return None
        outer = [module for module in shape.outer if self._changes(module, shape)]
        refused = [module.suffix for module in outer if module.suffix not in shape.asked_outer]
        if refused:
            raise ModelError(
                f"{self.source}: target_modules: {', '.join(refused)} of {shape.architecture} takes no adapters "
                "in vLLM 0.33, so the engine refuses this adapter"
            )
        linear = [module for module in shape.linear if module.called and self._changes(module, shape)]
        names = suffixes([*linear, *outer])
        if self._changes_experts(shape):
            names = (*names, EXPERTS)
        if not names:
            raise ModelError(
                f"{self.source}: target_modules: none of these names a module of {shape.name} that takes "
                f"adapters; its modules are {', '.join(shape.target_names)}"
            )
        return names

    @property
    def _changes_all_linear(self) -> bool:
        """Whether it names every linear layer, or nothing at all, so that its config does not tell what it changes."""
        targets = self.config.target_modules
        return targets == ALL_LINEAR or (targets is None and not self.config.target_parameters)

    def _changes(self, module: Module, shape: ModelShape) -> bool:
        names = list(shape.naming.adapter_names(module, shape.layer_count))
        is_linear = module.kind not in {Kind.EMBEDDING, Kind.HEAD}
        if (is_linear or self.config.target_modules != ALL_LINEAR) and any(map(self._chosen, names)):
            return True
        return any(self._is_target_parameter(name + WEIGHT) for name in names)

    def _changes_experts(self, shape: ModelShape) -> bool:
        if shape.moe is None:
            return False
        modules = shape.moe.adapter_names(shape.naming, shape.layer_count)
        parameters = shape.moe.parameter_names(shape.naming, shape.layer_count)
        return any(map(self._chosen, modules)) or any(map(self._is_target_parameter, parameters))

    def _chosen(self, name: str) -> bool:
        """Say whether PEFT adapts the module with a full name."""
        config = self.config
        if config.exclude_modules and _matches(config.exclude_modules, name):
            return False
        targets = config.target_modules
        if not targets:
            return False
        if targets == ALL_LINEAR:
            return True
        if not _matches(targets, name):
            return False
        return isinstance(targets, str) or name in targets or self._in_layers(name)

    def _in_layers(self, name: str) -> bool:
        """Say whether a module is in one of the layers to transform."""
        layers, patterns = self.config.layers_to_transform, self.config.layers_pattern
        if layers is None or layers == []:
            return True
        lists = [patterns] if isinstance(patterns, str) and patterns else patterns or [r"[^.]*"]
        index = next(filter(None, (re.match(rf".*\.{pattern}\.(\d+)\.", name) for pattern in lists)), None)
        return index is not None and int(index[1]) in ([layers] if isinstance(layers, int) else layers)

    def _is_target_parameter(self, name: str) -> bool:
        return _listed(self.config.target_parameters or (), name)


def _matches(names: Sequence[str] | str, full: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, full) is not None
    return _listed(names, full)


def _listed(names: Iterable[str], full: str) -> bool:
    return any(full == name or full.endswith(f".{name}") for name in names)


def joint_rank(adapters: Sequence[Adapter], ranks: Sequence[int]) -> tuple[int, ...]:
    """Return the values of ``--max-lora-rank``: the given ones, or else the least that serves all adapters.

    Raises:
        ModelError: a value is below an adapter's rank, or an adapter needs more than an engine has.
    """
    for adapter in adapters:
        if adapter.rank > LORA_RANKS[-1]:
            raise ModelError(
                f"{adapter.source}: {adapter.rank_field}: expected at most {LORA_RANKS[-1]}, got {adapter.rank}"
            )
        small = [rank for rank in ranks if rank < adapter.rank]
        if small:
            raise ModelError(
                f"{adapter.source}: {adapter.rank_field}: expected at most {small[0]}, the rank that is served, "
                f"got {adapter.rank}"
            )
    if ranks or not adapters:
        return tuple(ranks)
    least = serving_rank(max(adapter.rank for adapter in adapters))
    return (least,) if least else ()


def joint_targets(adapters: Sequence[Adapter], shape: ModelShape) -> tuple[str, ...] | None:
    """Return names of the engine's modules that any of the adapters changes; None if one changes all linear layers.

    Raises:
        ModelError: an adapter changes no module of the model.
    """
    each = [adapter.target_modules(shape) for adapter in adapters]
    changed = {name for names in each if names is not None for name in names}
    if not each or None in each:
        return None
    known = (*suffixes((*shape.linear, *shape.outer)), EXPERTS)
    return tuple(name for name in known if name in changed)
