"""The fields of an ``adapter_config.json`` of PEFT, as vLLM 0.33 reads them (``lora/peft_helper.py``).

vLLM refuses an adapter whose fields ask for unsupported features. This module refuses it too, with the reason. It
ignores ``use_rslora``, which changes only the scale of an adapter, and fields that vLLM does not know.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from bo_tune.files import shown

HEADS = ("classifier", "score")
"""Modules that an adapter may save whole."""

PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Initialisations after which an adapter is like any other. Others change the base model's weights."""

_REASON = "refused"


def _refused(reason: str) -> PydanticCustomError:
    return PydanticCustomError(_REASON, "{reason}", {"reason": reason})


def _unless(fits: Callable[[Any], object], reason: str) -> AfterValidator:
    """Return a validator that refuses values that do not fit."""

    def check(value: Any) -> Any:
        if not fits(value):
            raise _refused(reason)
        return value

    return AfterValidator(check)


def _unsupported(what: str) -> AfterValidator:
    return _unless(lambda value: not value, f"vLLM does not support {what}")


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise _refused(f"expected a regular expression: {error}") from None
    return value


def _heads_only(value: list[str] | None) -> list[str] | None:
    others = [name for name in value or () if name not in HEADS]
    if others:
        raise _refused(f"vLLM accepts only {' and '.join(HEADS)} as whole modules, and refuses {shown(others)}")
    return value


Rank = Annotated[int, _unless(lambda rank: rank >= 1, "expected an integer >= 1")]
Pattern = Annotated[str, AfterValidator(_pattern)]
_LORA = _unless(
    lambda kind: isinstance(kind, str) and kind.upper() == "LORA",
    "vLLM supports only LoRA: it refuses the tensor names of other methods",
)
_NO_BIAS = _unless(lambda bias: bias == "none", "vLLM does not support adapters with biases; expected 'none'")
_PLAIN_INIT = _unless(
    lambda init: not isinstance(init, str) or init.lower() in PLAIN_INITS,
    "this initialisation changes the base model, which vLLM does not reproduce; expected a truth value, "
    f"{', '.join(PLAIN_INITS)}",
)


class AdapterConfig(BaseModel):
    """The fields that vLLM reads, and those by which PEFT chooses the modules to adapt.

    Attributes:
        rank_pattern: ranks of modules whose rank is not ``r``, by regular expressions for the ends of names.
        alpha_pattern: likewise, alphas of modules whose alpha is not ``lora_alpha``.
        target_modules: names of modules, ``all-linear``, or a regular expression for full names.
        exclude_modules: names, or a regular expression, of modules to leave out again.
        layers_to_transform: numbers of the decoder layers in which named modules are adapted; None for all.
        layers_pattern: names of the lists of these layers.
        target_parameters: names of tensors to adapt, for example of experts that are one module.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    peft_type: Annotated[Any, _LORA] = "LORA"
    r: Rank
    lora_alpha: float
    target_modules: list[str] | Pattern | None
    rank_pattern: dict[Pattern, Rank] | None = None
    alpha_pattern: dict[Pattern, float] | None = None
    bias: Annotated[Any, _NO_BIAS] = "none"
    modules_to_save: Annotated[list[str] | None, AfterValidator(_heads_only)] = None
    use_dora: Annotated[Any, _unsupported("DoRA")] = False
    lora_bias: Annotated[Any, _unsupported("biases of B")] = False
    init_lora_weights: Annotated[Any, _PLAIN_INIT] = True
    alora_invocation_tokens: Annotated[Any, _unsupported("activated LoRA (aLoRA)")] = None
    layer_replication: Annotated[Any, _unsupported("replicated layers")] = None
    use_bdlora: Annotated[Any, _unsupported("block-diagonal LoRA (BD-LoRA)")] = None
    use_qalora: Annotated[Any, _unsupported("QALoRA")] = False
    trainable_token_indices: Annotated[Any, _unsupported("trained tokens of the embedding")] = None
    exclude_modules: list[str] | Pattern | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[Pattern] | Pattern | None = None
    target_parameters: list[str] | None = None

    @property
    def largest_rank(self) -> int:
        """The rank for which the engine must have room."""
        return max(self.r, *(self.rank_pattern or {}).values(), 1)


def read_config(values: Mapping[str, Any]) -> AdapterConfig:
    """Check the fields of an adapter.

    Raises:
        ValueError: one is missing, has a wrong type, or asks for what vLLM refuses. The message is one line that begins
            with the field.
    """
    try:
        return AdapterConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(_first(error, values)) from None


def _first(error: ValidationError, values: Mapping[str, Any]) -> str:
    """Return the first error in words: a reason, or the types that the field may have."""
    errors = error.errors(include_url=False)
    field = str(errors[0]["loc"][0])
    if errors[0]["type"] == "missing":
        return f"{field} is missing: vLLM refuses an adapter without it"
    own = [one for one in errors if one["loc"][0] == field]
    told = next((one for one in own if one["type"] == _REASON), None)
    reason = told["msg"] if told else f"expected {_EXPECTED.get(field, 'another type')}"
    return f"{field}: {reason}, got {shown(values.get(field))}"


_EXPECTED = {
    "r": "an integer >= 1",
    "lora_alpha": "a number",
    "target_modules": "a list of names, a regular expression or 'all-linear'",
    "rank_pattern": "ranks by name",
    "alpha_pattern": "alphas by name",
    "modules_to_save": "a list of names",
    "exclude_modules": "a list of names or a regular expression",
    "layers_to_transform": "numbers of layers",
    "layers_pattern": "names of lists of layers",
    "target_parameters": "a list of names",
}
"""Types in words, for fields that have one type."""
