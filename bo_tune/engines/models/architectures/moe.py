"""The routed experts of a model, before sharding over ranks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.modules import LAYER_INDEX, Naming, numbered

GATED_PARTS = ("gate_proj", "up_proj", "down_proj")
FUSED_PARAMETERS = ("gate_up_proj", "down_proj")
"""Names of the two tensors if all experts are one module (``target_parameters`` of adapters)."""

MOST_EXPERTS = 16_384
"""Most experts of a layer: more than any model has."""

EXPERTS = "experts"
"""Name of the experts in engines and tables."""


class Padding(NamedTuple):
    """Multiples to which the engine rounds up the experts' sizes, on each rank, in elements."""

    hidden: int = 1
    intermediate: int = 1


PADDED = {
    # The Marlin backend, which vLLM 0.33 uses for adapters on mxfp4 experts up to Hopper. TRT-LLM's pads alike.
    "mxfp4": Padding(hidden=256, intermediate=128),
    "gpt_oss_mxfp4": Padding(hidden=256, intermediate=128),
}
"""Padding by the checkpoint's quantization."""


@dataclass(frozen=True, slots=True)
class MoeShape:
    """The experts of a model, not sharded.

    Attributes:
        num_experts: number of experts of a layer to which tokens are routed.
        top_k: number of experts that each token visits.
        intermediate: intermediate size of one expert.
        hidden: width of their input.
        gated: whether they have a gate beside up.
        packed: whether vLLM takes adapters of gate and up as one tensor (weights in three dimensions).
        padding: multiples to which the engine rounds up sizes.
        paths: their possible paths in adapters. The first is the engine's own.
        parts: names of an expert's projections in adapters.
    """

    num_experts: int
    top_k: int
    intermediate: int
    hidden: int
    gated: bool = True
    packed: bool = False
    padding: Padding = Padding()
    paths: tuple[str, ...] = (f"{LAYER_INDEX}mlp.experts",)
    parts: tuple[str, ...] = GATED_PARTS

    def engine_name(self, naming: Naming) -> str:
        """Return the full name in the engine's model, with ``*`` for a layer's number."""
        return naming.prefix + self.paths[0]

    def adapter_names(self, naming: Naming, layers: int) -> Iterator[str]:
        """Yield every full name of a module that the experts may have in adapters."""
        for path in self._starts(naming):
            yield from numbered(path, layers)
            for number in range(self.num_experts):
                for part in self.parts:
                    yield from numbered(f"{path}.{number}.{part}", layers)

    def parameter_names(self, naming: Naming, layers: int) -> Iterator[str]:
        """Yield every full name of a tensor that the experts may have in adapters."""
        for path in self._starts(naming):
            for name in FUSED_PARAMETERS:
                yield from numbered(f"{path}.{name}", layers)

    def _starts(self, naming: Naming) -> Iterator[str]:
        for prefix in naming.adapter_prefixes:
            yield from (prefix + path for path in self.paths)


Routed = Callable[[Fields], MoeShape | None]
"""Maps the fields of a config to the routed experts; None if it has none."""


def routed_experts(
    *paths: str,
    count: Sequence[str],
    top_k: Sequence[str] = ("num_experts_per_tok",),
    intermediate: Sequence[str] = ("moe_intermediate_size",),
    latent: str | None = None,
    parts: tuple[str, ...] = GATED_PARTS,
    gated: bool = True,
    packed: bool = False,
    optional: bool = False,
) -> Routed:
    """Return a reader of an architecture's experts.

    Args:
        paths: their paths below a decoder layer, beginning with the engine's own.
        count: fields that may hold the number of experts. The first present one counts.
        top_k: fields that may hold the number of experts per token.
        intermediate: fields that may hold one expert's intermediate size.
        latent: field of the width of their input, if that may differ from the hidden size.
        optional: whether the config may be of a model without experts.
    """

    def read(fields: Fields) -> MoeShape | None:
        if optional and not any(fields.size(field, default=0, least=0) for field in count):
            return None
        hidden = fields.size("hidden_size")
        return MoeShape(
            num_experts=fields.first_size(count, most=MOST_EXPERTS),
            top_k=fields.first_size(top_k),
            intermediate=fields.first_size(intermediate),
            hidden=fields.size(latent, default=hidden) if latent else hidden,
            gated=gated,
            packed=packed,
            paths=tuple(LAYER_INDEX + path for path in paths),
            parts=parts,
            padding=PADDED.get(fields.quantization or "", Padding()),
        )

    return read
