"""What a study file may hold: its tables as pydantic models, and errors put into words.

Every check names what it expected, so that a message is ``model.tensor_parallel: expected an integer >= 1, got "two"``.
Checks that need more than one key, or a kernel's search space, are in ``study_file``.
"""

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from bo_tune.problem import DTYPES
from bo_tune.sampler_names import GRID_GP, SAMPLERS

MAX_SIZE = 2**31 - 1
"""Largest size a kernel takes: its arguments are 32-bit."""

_EXPECTED = "expected"
_Value = TypeVar("_Value")


def _checked(accepts: Callable[[Any], bool], expected: str) -> PlainValidator:
    def check(value: object) -> object:
        if not accepts(value):
            raise PydanticCustomError(_EXPECTED, "{expected}", {"expected": expected})
        return value

    return PlainValidator(check)


def _size(value: object) -> object:
    if type(value) is not int or value < 1:
        raise PydanticCustomError(_EXPECTED, "an integer >= 1")
    if value > MAX_SIZE:
        raise PydanticCustomError(_EXPECTED, "an integer <= {largest}", {"largest": MAX_SIZE})
    return value


def _is_seed(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 86400


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _distinct(values: list[_Value]) -> list[_Value]:
    if not values:
        raise PydanticCustomError(_EXPECTED, "at least one value")
    if len(set(values)) < len(values):
        raise PydanticCustomError(_EXPECTED, "values without repeats")
    return values


Size = Annotated[int, PlainValidator(_size)]
Seed = Annotated[int, _checked(_is_seed, "an integer >= 0 and < 2^32")]
Share = Annotated[float, _checked(_is_share, "a number > 0 and < 1")]
Seconds = Annotated[float, _checked(_is_seconds, "a number of seconds > 0 and <= 86400")]
Flag = Annotated[bool, _checked(lambda value: isinstance(value, bool), "true or false")]
Text = Annotated[str, _checked(_is_text, "a line of text")]
Dtype = Annotated[str, _checked(lambda value: value in DTYPES, " or ".join(DTYPES))]
Sampler = Annotated[str, _checked(lambda value: value in SAMPLERS, f"one of {', '.join(SAMPLERS)}")]
Sizes = Annotated[list[Size], BeforeValidator(_listed), AfterValidator(_distinct)]
Flags = Annotated[list[Flag], BeforeValidator(_listed), AfterValidator(_distinct)]
Texts = Annotated[list[Text], BeforeValidator(_listed), AfterValidator(_distinct)]


class Table(BaseModel):
    """A table of a study file: types are exact and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelTable(Table):
    """``[model]``: the LoRA layers of a model. ``config`` and ``adapter`` are relative to the study file."""

    config: Text
    tensor_parallel: Size = 1
    ranks: Sizes | None = None
    max_loras: Sizes = [4]
    m: Sizes
    dtype: Dtype | None = None
    add_inputs: Flags = [True]
    fully_sharded: Flag = False
    target_modules: Texts | None = None
    expert_parallel: Flag = False
    adapter: Text | None = None


class ProblemTable(Table):
    """``[[problem]]``: one problem of a kernel for each m, as in VLLM's lookup; see ``Problem``."""

    kernel: Text
    max_loras: Size
    num_slices: Size
    m: Sizes
    k: Size
    n: Size
    i: Size | None = None
    dtype: Dtype = "bfloat16"
    slice_sizes: list[Size] = []
    add_inputs: Flag | None = None
    num_experts: Size | None = None
    top_k: Size | None = None
    local_experts: Size | None = None
    rank_shards: Size | None = None


class BudgetTable(Table):
    """``[budget]``: what one study may cost. Left out: what the program finds sensible."""

    launched_configs: Size | None = None
    finalists: Size | None = None
    compile_deadline_s: Seconds | None = None


class SearchTable(Table):
    """``[search]``: how a study searches."""

    sampler: Sampler = GRID_GP
    seed: Seed = 0
    stop: Flag = True
    tolerance: Share = 0.01
    risk: Share = 0.10


class StudyTables(Table):
    """A whole study file."""

    name: Text | None = None
    kernels: Annotated[list[Text], AfterValidator(_distinct)] | None = None
    model: ModelTable | None = None
    problem: list[ProblemTable] = []
    space: dict[str, dict[str, Sizes]] = {}
    budget: BudgetTable = BudgetTable()
    search: SearchTable = SearchTable()


_TABLES: Mapping[str, type[Table]] = {
    "model": ModelTable,
    "problem": ProblemTable,
    "budget": BudgetTable,
    "search": SearchTable,
}

_KINDS = {
    "model_type": "a table",
    "dict_type": "a table",
    "list_type": "a list",
    "string_type": "a line of text",
}


def describe(error: ValidationError, data: object) -> str:
    """Return the first error as ``key: expected what, got value``, and how many more there are."""
    errors = error.errors(include_url=False)
    text = _describe_one(errors[0], data)
    return text if len(errors) == 1 else f"{text} (and {len(errors) - 1} more)"


def shown(value: object) -> str:
    """Return a value as it stands in a message: in one line, not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def suggestion(name: str, known: list[str]) -> str:
    """Return what to say after the name of an unknown key: the nearest known ones, or all."""
    near = get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"


def _describe_one(error: ErrorDetails, data: object) -> str:
    place = _place(error["loc"], data)
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "extra_forbidden":
        owner = StudyTables if len(error["loc"]) == 1 else _TABLES[str(error["loc"][0])]
        return f"{place}: unknown key; {suggestion(str(error['loc'][-1]), list(owner.model_fields))}"
    expected = error["msg"] if error["type"] == _EXPECTED else _KINDS.get(error["type"], error["msg"])
    return f"{place}: expected {expected}, got {shown(error['input'])}"


def _place(loc: tuple[int | str, ...], data: object) -> str:
    """Return ``problem[0].m[1]``; a single value that stands for a list has no index."""
    place = ""
    for part in loc:
        if isinstance(part, str):
            place += f".{part}" if place else part
            data = data.get(part) if isinstance(data, dict) else None
        elif isinstance(data, list):
            place += f"[{part}]"
            data = data[part] if part < len(data) else None
    return place or "the file"
