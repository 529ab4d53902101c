"""The contents of a study file: its tables as pydantic models, and errors in words.

Every check names what it expected, so that a message is ``model.tensor_parallel: expected an integer >= 1, got "two"``.
Checks that need more than one key, or a kernel's search space, are in ``study_file``. The docstrings of the keys are
their documentation: ``make docs`` makes the reference from them.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError

from bo_tune.core.choices import GRID_GP, SAMPLERS
from bo_tune.core.problem import DTYPES, MOST
from bo_tune.formats.recording_format import shown

_EXPECTED = "expected"
_Value = TypeVar("_Value")


def _expected(text: str) -> WrapValidator:
    """Return a validator that says with this text what was expected, whatever is wrong with the value."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError(_EXPECTED, "{text}", {"text": text}) from None

    return WrapValidator(check)


def _satisfying(accepts: Callable[[Any], bool], text: str) -> AfterValidator:
    """Return a validator that accepts a value of the right type if the condition in the text holds."""

    def check(value: _Value) -> _Value:
        if not accepts(value):
            raise PydanticCustomError(_EXPECTED, "{text}", {"text": text})
        return value

    return AfterValidator(check)


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class _OneOrMore:
    """Shows a list in the schema as a study file may have it: one value or several."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        several = handler(schema)
        return {"anyOf": [several["items"], several]}


_distinct = _satisfying(lambda values: len(set(values)) == len(values), "values without repeats")
_some = _satisfying(bool, "at least one value")

Size = Annotated[
    int,
    Field(ge=1),
    _expected("an integer >= 1"),
    _satisfying(lambda size: size <= MOST, f"an integer <= {MOST}"),
]
Seed = Annotated[
    int,
    Field(ge=0),
    _satisfying(lambda seed: seed < 2**32, "smaller"),
    _expected("an integer >= 0 and < 2^32"),
]
Share = Annotated[float, Field(gt=0, lt=1), _expected("a number > 0 and < 1")]
Seconds = Annotated[float, Field(gt=0, le=86400), _expected("a number of seconds > 0 and <= 86400")]
Drafts = Annotated[int, Field(ge=0, le=1024), _expected("an integer from 0 to 1024")]
Flag = Annotated[bool, _expected("true or false")]
Text = Annotated[str, _satisfying(lambda text: bool(text.strip()) and text.isprintable(), "a line of text")]
Dtype = Annotated[
    str,
    _satisfying(DTYPES.__contains__, "one of them"),
    _expected(" or ".join(DTYPES)),
    WithJsonSchema({"enum": list(DTYPES)}),
]
Sampler = Annotated[
    str,
    _satisfying(SAMPLERS.__contains__, "one of them"),
    _expected(f"one of {', '.join(SAMPLERS)}"),
    WithJsonSchema({"enum": list(SAMPLERS)}),
]
Sizes = Annotated[list[Size], BeforeValidator(_listed), _some, _distinct, _OneOrMore()]
Flags = Annotated[list[Flag], BeforeValidator(_listed), _some, _distinct, _OneOrMore()]
Texts = Annotated[list[Text], BeforeValidator(_listed), _some, _distinct, _OneOrMore()]


class Table(BaseModel):
    """A table of a study file: types are exact and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class ModelTable(Table):
    """The LoRA layers of a model, as one engine serves them: every problem that it will look up."""

    config: Text
    """Hugging Face `config.json`, its folder, or the id of a model on the Hugging Face hub (needs the extra `hub`).
    A path is relative to the study file."""

    tensor_parallel: Size = 1
    """The engine's `--tensor-parallel-size`."""

    ranks: Sizes | None = None
    """Values of the engine's `--max-lora-rank`, not the adapters' own ranks. Left out: 16, which is vLLM's default, or
    the smallest that serves `adapter`."""

    max_loras: Sizes = [4]
    """Values of the engine's `--max-loras`."""

    m: Sizes
    """Tokens in a step: the keys of m in the JSON. If the engine finds no entry for its m, it takes
    the one of the nearest m."""

    dtype: Dtype | None = None
    """Element type of activations and weights. Left out: the type in which vLLM serves the model."""

    add_inputs: Flags | None = None
    """Whether expand adds to its output, for all layers alike. Left out: as the engine asks, which is true,
    or depends on the layer with `dual_stream`."""

    fully_sharded: Flag = False
    """The engine's `--fully-sharded-loras`."""

    target_modules: Texts | None = None
    """The engine's `--lora-target-modules`. Left out: all layers that take adapters, or those of `adapter`."""

    expert_parallel: Flag = False
    """The engine's `--enable-expert-parallel`."""

    mixed_moe_lora_format: Flag = False
    """The engine's `--enable-mixed-moe-lora-format`. Experts then have separate gate and up, whatever the model has."""

    moe_shared_loras: Flag = False
    """The engine's `--enable-moe-shared-loras`, which has the same effect on lookups."""

    adapter: Texts | None = None
    """One or more adapters, each an `adapter_config.json` or its folder. If `ranks` and `target_modules` are left out,
    the adapters give them: the smallest rank that serves all, and the modules of all. Relative to the study file."""

    max_num_seqs: Size | None = None
    """The engine's `--max-num-seqs`, which is the most rows with which lm_head is looked up. Left out: 1024."""

    max_num_batched_tokens: Size | None = None
    """The engine's `--max-num-batched-tokens`, which is the most tokens in a step. Left out: 8192."""

    num_speculative_tokens: Drafts = 0
    """Tokens that the engine drafts for each sequence. lm_head is looked up with all tokens that are verified."""

    dual_stream: Flag = False
    """Whether the engine runs with `VLLM_LORA_ENABLE_DUAL_STREAM=1`. It then asks for two files of expand:
    `…_EXPAND_FALSE.json` for the layers that are spread over ranks, `…_EXPAND_TRUE.json` for embeddings, lm_head,
    routers and whatever else each rank holds whole."""

    quantization: Text | None = None
    """The engine's `--quantization`, if it differs from the checkpoint's. With `moe_wna16`, Triton multiplies experts
    of 4 and 8 bits."""


class ProblemTable(Table):
    """One problem of one kernel for each m, as the engine looks it up. May be repeated."""

    kernel: Text
    """Name of the kernel."""

    max_loras: Size
    """The engine's `--max-loras`. The JSON key of the two dense kernels is one more, because
    that is what the engine looks up."""

    num_slices: Size
    """Layers fused into one: 3 for qkv_proj, 2 for gate_up_proj, 1 for the others. Of experts: 2 for w13, 1
    where it has no gate or `packed_gate_up` is set; 1 for w2."""

    m: Sizes
    """Tokens in a step."""

    k: Size
    """Length of the product: the input size for shrink, the rank for expand and for all four kernels of experts."""

    n: Size
    """Width of the product: the rank for shrink, the widest slice for expand, the model's hidden size for experts."""

    i: Size | None = None
    """Experts only, and needed there: the intermediate size of an expert, as sharded. Twice that for w13 where
    `packed_gate_up` is set."""

    dtype: Dtype = "bfloat16"
    """Element type of activations and weights."""

    slice_sizes: list[Size] = []
    """Width of each slice, `num_slices` of them, of which the widest is n. Left out: all as wide as n."""

    add_inputs: Flag | None = None
    """Expand only: whether it adds to its output. Left out: true, as in serving."""

    num_experts: Size | None = None
    """Experts only, and needed there: experts that a token may be routed to, on all ranks."""

    top_k: Size | None = None
    """Experts only, and needed there: experts that each token visits."""

    local_experts: Size | None = None
    """Experts only: those whose weights this rank holds. Left out: all."""

    rank_shards: Size | None = None
    """Experts only: tensor-parallel ranks that share an adapter's rank, with fully sharded adapters. Left out: 1."""

    packed_gate_up: Flag | None = None
    """Experts only: whether gate and up are one tensor (three-dimensional weights, as in GPT-OSS). w13 then has one
    slice, and its `i` is the size of both. Left out: false."""


class Budget(Table):
    """What one study may cost."""

    launched_configs: Size | None = None
    """Configs that reach the GPU, including the kernel's default config. Left out: 40. `--budget` overrides it."""

    finalists: Size | None = None
    """Configs that are timed in turn at the end of a study, besides the default. Left out: 8."""

    compile_deadline_s: Seconds | None = None
    """Seconds after which a compile is killed. Left out: 8, and less once it is known how long compiles take."""


class SearchTable(Table):
    """How a study searches, and when it ends."""

    sampler: Sampler = GRID_GP
    """The method that proposes configs. `grid-gp` is the project's own; `tpe` and `gp` are Optuna's. `--sampler`
    overrides it."""

    seed: Seed = 0
    """Seed of all random choices. `--seed` overrides it."""

    stop: Flag = True
    """Whether a study may end before its budget is spent. `--no-stop` overrides it."""

    tolerance: Share = 0.01
    """A study ends when, with a probability of 1 - `risk`, no untried config is better by more than this share."""

    risk: Share = 0.10
    """The probability with which a study may end too early."""


class StudyTables(Table):
    """A study file: TOML, with at least a `[model]` or one `[[problem]]`."""

    name: Text | None = None
    """Name of the study. Left out: the file's name without its ending."""

    kernels: Annotated[list[Text], _some, _distinct] | None = None
    """Kernels to tune. Left out: those of the model and of the problems."""

    model: ModelTable | None = None
    problem: list[ProblemTable] = []

    space: dict[str, dict[str, Sizes]] = {}
    """Ranges that replace those of a kernel's own search space: `[space.KERNEL]` with one list for each parameter.
    Parameters that are not named keep their values."""

    budget: Budget = Budget()
    search: SearchTable = SearchTable()


TABLES: Mapping[str, type[Table]] = {
    "model": ModelTable,
    "problem": ProblemTable,
    "budget": Budget,
    "search": SearchTable,
}

_KINDS = {
    "model_type": "a table",
    "dict_type": "a table",
    "list_type": "a list",
    "string_type": "a line of text",
}


def describe(error: ValidationError, data: object) -> str:
    """Return the first error as ``key: expected what, got value``, and the number of others."""
    errors = error.errors(include_url=False)
    text = _describe_one(errors[0], data)
    return text if len(errors) == 1 else f"{text} (and {len(errors) - 1} more)"


def _describe_one(error: ErrorDetails, data: object) -> str:
    loc = error["loc"]
    place = _place(loc, data)
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "extra_forbidden":
        owner = StudyTables if len(loc) == 1 else TABLES[str(loc[0])]
        return f"{place}: unknown key; {suggestion(str(loc[-1]), list(owner.model_fields))}"
    what = error["msg"] if error["type"] == _EXPECTED else _KINDS.get(error["type"], error["msg"])
    return f"{place}: expected {what}, got {shown(error['input'])}"


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return the words after the name of an unknown key: the nearest known keys, or all of them."""
    near = get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"


def _place(loc: tuple[int | str, ...], data: object) -> str:
    """Return ``problem[0].m[1]``. A single value that stands for a list has no index."""
    place = ""
    for part in loc:
        if isinstance(part, str):
            place += f".{part}" if place else part
            data = data.get(part) if isinstance(data, dict) else None
        elif isinstance(data, list):
            place += f"[{part}]"
            data = data[part] if part < len(data) else None
    return place or "the file"
