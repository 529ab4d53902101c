"""The layers of a model that take adapters, as one tensor-parallel rank holds them.

Notation: P tensor-parallel size, R rank.

============ ================ ====== ======================================================== ===================
layer        shrink k         slices expand n per slice                                       fully sharded
============ ================ ====== ======================================================== ===================
qkv_proj     hidden           3      heads·head_dim/P, then max(1, kv_heads/P)·head_dim twice shrink n = R/P
gate_up_proj hidden           2      intermediate/P each                                      shrink n = R/P
o_proj       heads·head_dim/P 1      hidden                                                   expand n = hidden/P
down_proj    intermediate/P   1      hidden                                                   expand n = hidden/P
router       hidden           1      number of experts                                        the same
embed_tokens none: rows of A  1      hidden                                                   the same
lm_head      hidden           1      vocabulary, on every rank                                the same
============ ================ ====== ======================================================== ===================

Shrink asks for (k, n = R), expand for (k = R, n = the widest slice). Fully sharded, a column-parallel layer gathers the
shares of the rank before it expands, a row-parallel one sums them and expands to its share of the output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from bo_tune.errors import ModelError
from bo_tune.models.families import PACKED


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """One layer that takes adapters, on one tensor-parallel rank.

    Attributes:
        name: the module's name, below ``mlp`` for a part of it: ``shared_expert.down_proj``.
        shrink_k: input width of the layer, in elements; None where A is a table of rows, and nothing shrinks.
        slice_sizes: output widths of its fused slices, in elements.
        shrink_shards: tensor-parallel ranks that share the rank of shrink.
        per_sequence: whether it runs once for each sequence of a step, not for each token.
        fused: whether adapters too know it as one projection.
    """

    name: str
    shrink_k: int | None
    slice_sizes: tuple[int, ...]
    shrink_shards: int = 1
    per_sequence: bool = False
    fused: bool = False

    @property
    def module(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def adapted_by(self) -> frozenset[str]:
        """Names of target modules that make this layer take adapters."""
        packed = () if self.fused else PACKED.get(self.module, ())
        return frozenset({self.module, *packed})

    def shrink_n(self, rank: int) -> int:
        """Return the rank that one tensor-parallel rank shrinks to.

        Raises:
            ModelError: the rank does not divide.
        """
        if rank % self.shrink_shards:
            raise ModelError(
                f"fully sharded adapters: expected a rank that is a multiple of the tensor-parallel size "
                f"{self.shrink_shards}, got {rank}"
            )
        return rank // self.shrink_shards


@dataclass(frozen=True, slots=True)
class Sharding:
    """How layers are spread over ranks.

    Attributes:
        tensor_parallel: number of ranks.
        fully_sharded: the engine's ``--fully-sharded-loras``.
    """

    tensor_parallel: int = 1
    fully_sharded: bool = False

    def column(self, name: str, k: int, slice_sizes: tuple[int, ...], *, fused: bool = False) -> LoraLayer:
        """Return a layer whose output is split; the sizes are those of one rank. Fused ones are one slice."""
        sizes = (sum(slice_sizes),) if fused else slice_sizes
        return LoraLayer(name, k, sizes, self.tensor_parallel if self.fully_sharded else 1, fused=fused)

    def row(self, name: str, k: int, n: int) -> LoraLayer:
        """Return a layer whose input is split; k is that of one rank, n the whole."""
        return LoraLayer(name, k, (n // self.tensor_parallel if self.fully_sharded else n,))


def targeted(layers: Sequence[LoraLayer], target_modules: Sequence[str], others: frozenset[str]) -> list[LoraLayer]:
    """Return the layers that target modules name, themselves or one of the projections packed into them.

    Args:
        others: names that are known to name something else.

    Raises:
        ModelError: a name is unknown, or no layer is left.
    """
    wanted = {name.rpartition(".")[2] for name in target_modules}
    known = frozenset().union(*(layer.adapted_by for layer in layers))
    for name in sorted(wanted - known - others):
        near = get_close_matches(name, sorted(known), n=1)
        advice = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(sorted(known))}"
        raise ModelError(f"target modules: no layer takes adapters as {name!r}; {advice}")
    found = [layer for layer in layers if layer.adapted_by & wanted]
    if not found:
        raise ModelError(
            f"target modules: {', '.join(sorted(wanted))} name no dense layer of this model; "
            f"expected some of {', '.join(sorted(known))}"
        )
    return found
