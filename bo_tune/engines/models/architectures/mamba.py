"""The Mamba-2 layers of a whole model, as far as their decode steps go, before they are spread over ranks."""

from collections.abc import Callable
from dataclasses import dataclass

from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.hybrid_blocks import MAMBA, layer_kinds
from bo_tune.errors import ModelError
from bo_tune.files import shown
from bo_tune.kernels.mamba.step import STATE_DTYPES


@dataclass(frozen=True, slots=True)
class MambaShape:
    """The Mamba-2 layers of a model, whole.

    Attributes:
        heads: of a layer.
        headdim: channels of a head.
        states: of a channel.
        groups: of heads, which share B and C.
        state_dtype: element type of the states in an engine that is told of none; None for the activations'.
    """

    heads: int
    headdim: int
    states: int
    groups: int
    state_dtype: str | None = None


Recurrent = Callable[[Fields], MambaShape | None]
"""From the fields of a config to its Mamba-2 layers, None where it has none."""


def nemotron_mamba(fields: Fields) -> MambaShape | None:
    """Read those of a Nemotron-H, whose config says what states are kept in."""
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
    """Read those of models that call the fields as Bamba does, where Mamba-2 is in every layer."""
    heads = fields.size("mamba_n_heads")
    named = fields.values.get("mamba_d_head")
    wide = 0 if isinstance(named, int) else fields.product("mamba_expand", "hidden_size")
    headdim = wide // heads if wide else fields.size("mamba_d_head")
    return MambaShape(heads, headdim, fields.size("mamba_d_state"), fields.size("mamba_n_groups"))


def granite_mamba(fields: Fields) -> MambaShape | None:
    """Read those of a Granite 4, some of which have attention alone."""
    return usual_mamba(fields) if fields.layer_types() & {"mamba", "linear_attention"} else None
