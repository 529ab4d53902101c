"""The Mamba-2 layers of a model, as far as their decode steps need them, before sharding."""

from collections.abc import Callable
from dataclasses import dataclass

from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.hybrid_blocks import MAMBA, layer_kinds
from bo_tune.errors import ModelError
from bo_tune.files import shown
from bo_tune.kernels.mamba.step import STATE_DTYPES


@dataclass(frozen=True, slots=True)
class MambaShape:
    """The Mamba-2 layers of a model, not sharded.

    Attributes:
        heads: heads of a layer.
        headdim: channels of a head.
        states: states of a channel.
        groups: groups of heads that share B and C.
        state_dtype: default element type of the states in an engine; None for the activations' type.
    """

    heads: int
    headdim: int
    states: int
    groups: int
    state_dtype: str | None = None


Recurrent = Callable[[Fields], MambaShape | None]
"""Maps the fields of a config to its Mamba-2 layers; None if it has none."""


def nemotron_mamba(fields: Fields) -> MambaShape | None:
    """Read the layers of a Nemotron-H. Its config gives the type of the states."""
    if MAMBA not in layer_kinds(fields):
        return None
    dtype = fields.values.get("mamba_ssm_cache_dtype", "float32")
    if dtype is not None and dtype not in STATE_DTYPES:
        raise ModelError(
            f"{fields.source}: mamba_ssm_cache_dtype: expected one of {', '.join(STATE_DTYPES)}, got {shown(dtype)}"
        )
    heads, headdim = fields.size("mamba_num_heads"), fields.size("mamba_head_dim")
    return MambaShape(heads, headdim, fields.size("ssm_state_size"), fields.size("n_groups"), dtype)


def usual_mamba(fields: Fields) -> MambaShape:
    """Read the layers of models with Bamba's field names, where every layer has Mamba-2."""
    heads = fields.size("mamba_n_heads")
    named = fields.values.get("mamba_d_head")
    wide = 0 if isinstance(named, int) else fields.product("mamba_expand", "hidden_size")
    headdim = wide // heads if wide else fields.size("mamba_d_head")
    return MambaShape(heads, headdim, fields.size("mamba_d_state"), fields.size("mamba_n_groups"))


def granite_mamba(fields: Fields) -> MambaShape | None:
    """Read the layers of a Granite 4. Some of these models have only attention."""
    return usual_mamba(fields) if fields.layer_types() & {"mamba", "linear_attention"} else None
