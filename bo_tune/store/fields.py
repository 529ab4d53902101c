"""Types of stored values, with their bounds: values that no GPU and no search could have produced are refused."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from bo_tune.core.conclusion import Agreement, Certificate
from bo_tune.core.outcome import LONGEST_US, MOST_SECONDS, SHORTEST_US
from bo_tune.core.problem import MOST, MOST_SLICES
from bo_tune.core.surroundings import Linear, Mixture, Weights


def printable(text: str) -> str:
    """Refuse text that would break a line or move a terminal's cursor."""
    if not text.isprintable():
        raise PydanticCustomError("printable", "a line of text")
    return text


def one_part(text: str) -> str:
    """Refuse text that would be taken for two parts of a study's name."""
    if "|" in text:
        raise PydanticCustomError("one_part", "a text without |")
    return printable(text)


Count = Annotated[int, Field(strict=True, ge=0, le=MOST)]
Setting = Annotated[int, Field(strict=True, ge=1, le=MOST)]
Time = Annotated[float, Field(strict=True, ge=SHORTEST_US, le=LONGEST_US, allow_inf_nan=False)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=MOST_SECONDS, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, max_length=4000)]
Line = Annotated[Text, AfterValidator(printable)]
Part = Annotated[Annotated[str, Field(strict=True, max_length=300)], AfterValidator(one_part)]
Parameter = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
StoredConfig = Annotated[Mapping[Parameter, Setting], Field(min_length=1, max_length=100)]


class _Certificate(BaseModel):
    tolerance: Share
    probability: Share
    tried: Count = 0
    exhausted: Flag = False
    expected_loss: Number | None = None


class _Linear(BaseModel):
    k: Setting
    widths: Annotated[list[Setting], Field(min_length=1, max_length=MOST_SLICES)]
    adds: Flag
    weights: Weights = Weights.BITS_16


class _Experts(BaseModel):
    count: Setting
    top_k: Setting
    local: Setting
    shards: Setting
    packed: Flag


class _Mixture(BaseModel):
    hidden: Setting
    up: Setting
    down: Setting
    experts: _Experts


class _LayerTimes(BaseModel):
    bare_us: Time
    time_us: Time
    default_time_us: Time | None


class _Sum(BaseModel):
    kernels: list[Part]
    time_us: Time
    default_time_us: Time | None


class _Decision(_Sum):
    value: Setting


class _Joint(_Sum):
    block_m: Setting
    decided_by: _Decision | None = None
    in_place: _LayerTimes | None = None


def first_error(error: ValidationError, *under: str) -> str:
    """Return the place (below ``under``) and the message of the first error, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    parts = (*under, *first["loc"])
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    expected = first["msg"][:1].lower() + first["msg"][1:]
    return f"{place}: {expected}" if place else expected


def made_of(kind: type[BaseModel], make: Callable[[Mapping[str, Any]], object]) -> BeforeValidator:
    """Validate a mapping, which may hold more than ``kind`` does, and build the object that it stands for."""

    def read(value: object) -> object:
        try:
            kind.model_validate(value)
        except ValidationError as error:
            raise PydanticCustomError("held", "{found}", {"found": first_error(error)}) from None
        return make(cast(Mapping[str, Any], value))

    return BeforeValidator(read)


Sureness = Annotated[Certificate, made_of(_Certificate, Certificate.from_json)]
LinearLayer = Annotated[Linear, made_of(_Linear, Linear.from_json)]
Experts = Annotated[Mixture, made_of(_Mixture, Mixture.from_json)]
Together = Annotated[Agreement, made_of(_Joint, Agreement.from_json)]
