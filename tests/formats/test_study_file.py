"""Study files: what they mean, the shipped ones, and one clear line for whatever is wrong."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ONE_PROBLEM as PROBLEM
from helpers import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.errors import InputError, ModelError, StudyFileError
from bo_tune.formats.recording import read_recordings
from bo_tune.formats.study_file import Budget, StudyFile, load_study_file, parse_study
from bo_tune.kernels.registry import kernel_spec

STUDIES = ROOT / "studies"
LLAMA = STUDIES / "models" / "llama-3.1-8b"

MODEL = f"""
[model]
config = "{LLAMA.as_posix()}"
m = [16, 64]
"""


def load(tmp_path: Path, text: str) -> StudyFile:
    path = tmp_path / "x.toml"
    path.write_text(text)
    return load_study_file(path)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_studies_load(path: Path) -> None:
    study = load_study_file(path)
    assert study.name == path.stem
    assert study.problems()


@pytest.mark.parametrize(
    ("name", "lookups", "layer_problems"),
    [("llama-3.1-8b", 47, 64), ("llama-3.1-8b-96", 84, 96), ("qwen2.5-14b", 42, 48), ("llama-3.3-70b-tp4", 52, 64)],
)
def test_shipped_models_share_lookups_between_layers(name: str, lookups: int, layer_problems: int) -> None:
    study = load_study_file(STUDIES / f"{name}.toml")
    assert (len(study.problems()), study.layer_problem_count) == (lookups, layer_problems)


def test_shapes_of_the_shipped_models() -> None:
    qwen = {(p.kernel, p.num_slices, p.k, p.n) for p in load_study_file(STUDIES / "qwen2.5-14b.toml").problems()}
    assert ("lora_shrink", 1, 13824, 16) in qwen
    assert ("lora_expand", 3, 16, 5120) in qwen
    llama = {(p.kernel, p.num_slices, p.k, p.n) for p in load_study_file(STUDIES / "llama-3.3-70b-tp4.toml").problems()}
    assert ("lora_shrink", 1, 2048, 16) in llama
    assert ("lora_expand", 2, 16, 7168) in llama


def test_the_recorded_study_is_the_bundled_recordings() -> None:
    recorded = {recording.problem for recording in read_recordings(STUDIES / "recordings")}
    assert set(load_study_file(STUDIES / "recorded.toml").problems()) == recorded


def test_defaults(tmp_path: Path) -> None:
    study = load(tmp_path, MODEL)
    assert (study.name, study.kernels, study.sampler, study.seed) == ("x", ("lora_shrink", "lora_expand"), "grid-gp", 0)
    assert study.budget == Budget()
    assert study.model is not None
    assert (study.model.ranks, study.model.max_loras, study.model.tensor_parallel) == ((16,), (4,), 1)
    spec = kernel_spec("lora_shrink")
    assert study.search_space(spec).parameters == spec.search_space.parameters


def test_everything_at_once(tmp_path: Path) -> None:
    text = f"""
    name = "both"
    kernels = ["lora_shrink", "lora_expand"]
    {MODEL}
    tensor_parallel = 2
    ranks = [8, 64]
    max_loras = 2
    dtype = "float16"
    add_inputs = [true, false]
    target_modules = ["q_proj", "o_proj", "gate_up_proj", "down_proj"]
    {PROBLEM}
    [space.lora_shrink]
    block_m = [64, 16]
    split_k = [1, 3]
    [budget]
    launched_configs = 20
    finalists = 3
    compile_deadline_s = 8
    [search]
    sampler = "tpe"
    seed = 7
    """
    study = load(tmp_path, text)
    assert (study.name, study.sampler, study.seed, study.budget) == (
        "both",
        "tpe",
        7,
        Budget(launched_configs=20, finalists=3, compile_deadline_s=8),
    )
    assert study.search_space(kernel_spec("lora_shrink")).ranges["block_m"] == (16, 64)
    assert study.search_space(kernel_spec("lora_shrink")).ranges["split_k"] == (1, 3)
    served = study.problems_by_layer()
    assert served[LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)] == ()
    assert len(served) == 1 + 2 * 2 * (4 + 2 * 3)
    assert study.layer_problem_count == 1 + 2 * 2 * (4 + 2 * 4)
    only = replace(study, kernels=("lora_expand",))
    assert {problem.kernel for problem in only.problems()} == {"lora_expand"}


def test_explicit_problems(tmp_path: Path) -> None:
    text = (
        PROBLEM.replace("m = 16", "m = [16, 32]", 1)
        + '[[problem]]\nkernel = "lora_expand"\nmax_loras = 1\nnum_slices = 3\nm = 7\nk = 64\nn = 4096\n'
        'slice_sizes = [4096, 1024, 1024]\nadd_inputs = false\ndtype = "float16"\n'
    )
    study = load(tmp_path, text)
    assert study.problems() == [
        LoraProblem("lora_shrink", 4, 1, 16, 4096, 16),
        LoraProblem("lora_shrink", 4, 1, 32, 4096, 16),
        LoraProblem("lora_expand", 1, 3, 7, 64, 4096, None, "float16", (4096, 1024, 1024), False),
    ]
    assert study.kernels == ("lora_shrink", "lora_expand")


def test_an_expand_problem_adds_unless_told_otherwise(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, PROBLEM.replace("shrink", "expand")).problems()
    assert problem.add_inputs is True


def test_a_problem_of_the_model_is_not_tuned_twice(tmp_path: Path) -> None:
    both, alone = load(tmp_path, MODEL + PROBLEM), load(tmp_path, MODEL)
    assert both.problems() == alone.problems()


def test_the_command_line_builds_the_same(tmp_path: Path) -> None:
    study = load(tmp_path, MODEL)
    built = StudyFile.from_model(ModelStudy.of(str(LLAMA), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[16, 64]))
    assert built.problems_by_layer() == study.problems_by_layer()
    assert built.name == "llama-3.1-8b"
    with pytest.raises(ModelError, match="num_attention_heads"):
        ModelStudy.of(str(LLAMA), tensor_parallel=3, ranks=[16], max_loras=[4], ms=[16])


def write_adapter(folder: Path, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({"r": 24, "lora_alpha": 32, "target_modules": ["q_proj", "o_proj"], **fields}))
    return folder


def test_an_adapter_gives_rank_and_target_modules(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter")
    study = load(tmp_path, with_model('adapter = "adapter"'))
    assert study.model is not None
    assert (study.model.ranks, study.model.target_modules) == ((32,), ("qkv_proj", "o_proj"))
    assert {layer for layers in study.problems_by_layer().values() for layer in layers} == {"qkv_proj", "o_proj"}
    assert study.model.note is not None
    assert "--lora-target-modules qkv_proj o_proj, or it stops with a KeyError" in study.model.note
    wider = load(tmp_path, with_model('adapter = "adapter"\nranks = [64]\ntarget_modules = "down_proj"'))
    assert wider.model is not None
    assert (wider.model.ranks, wider.model.target_modules) == ((64,), ("down_proj",))


def test_fully_sharded_adapters(tmp_path: Path) -> None:
    study = load(tmp_path, with_model("fully_sharded = true\ntensor_parallel = 2"))
    assert {p.n for p in study.problems() if p.kernel == "lora_shrink"} == {8, 16}


@pytest.mark.parametrize(
    ("fields", "line", "message"),
    [
        ({"r": 24}, "ranks = [16]", "r: expected at most 16, the rank that is served, got 24"),
        ({"target_modules": ["c_attn"]}, "", "target_modules: none of these names a module of llama-3.1-8b"),
        ({"use_dora": True}, "", "use_dora: vLLM does not support DoRA, got true"),
        ({}, "ranks = [48]", "rank: expected a value of the engine's --max-lora-rank, one of 1, 8, 16,"),
    ],
)
def test_adapters_that_cannot_be_served(tmp_path: Path, fields: dict[str, Any], line: str, message: str) -> None:
    write_adapter(tmp_path / "adapter", **fields)
    with pytest.raises(ModelError) as caught:
        load(tmp_path, with_model(f'adapter = "adapter"\n{line}'))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_adapters_count(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", target_modules=["v_proj"], r=8)
    write_adapter(tmp_path / "b", target_modules=["down_proj"], r=8, rank_pattern={"down_proj": 64})
    model = load(tmp_path, with_model('adapter = ["a", "b/adapter_config.json"]')).model
    assert model is not None
    assert (model.ranks, model.target_modules) == ((64,), ("qkv_proj", "down_proj"))


def test_an_engine_of_two_streams(tmp_path: Path) -> None:
    study = load(tmp_path, with_model("dual_stream = true\nmax_num_seqs = 16"))
    asked = {problem: layers for problem, layers in study.problems_by_layer().items() if problem.add_inputs is not None}
    adding = {layer for problem, layers in asked.items() if problem.add_inputs for layer in layers}
    assert adding == {"embed_tokens", "lm_head"}
    assert {problem.m for problem, layers in asked.items() if "lm_head" in layers} == {16}
    both = load(tmp_path, with_model("add_inputs = [true, false]"))
    assert {problem.add_inputs for problem in both.problems()} == {None, True, False}


@pytest.mark.parametrize("value", ["all-linear", None])
def test_an_adapter_of_everything(tmp_path: Path, value: str | None) -> None:
    write_adapter(tmp_path / "adapter", target_modules=value)
    study = load(tmp_path, with_model('adapter = "adapter/adapter_config.json"'))
    assert study.model is not None
    assert study.model.target_modules is None
    assert study.model.note is None


def with_model(line: str) -> str:
    return f"{MODEL}{line}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a [model] table or at least one [[problem]]"),
        ("name = 3", "name: expected a line of text, got 3"),
        ('name = "a\\nb"\n' + PROBLEM, "name: expected a line of text"),
        ("modell = 1\n" + PROBLEM, "modell: unknown key; did you mean model?"),
        ("model = 3", "model: expected a table, got 3"),
        (with_model('tensor_parallel = "two"'), 'model.tensor_parallel: expected an integer >= 1, got "two"'),
        (with_model("tensor_parallel = 1.0"), "model.tensor_parallel: expected an integer >= 1, got 1.0"),
        (with_model("tensor_parallel = true"), "model.tensor_parallel: expected an integer >= 1, got true"),
        (with_model("tensor_paralel = 2"), "model.tensor_paralel: unknown key; did you mean tensor_parallel"),
        (with_model("ranks = []"), "model.ranks: expected at least one value, got []"),
        (with_model("ranks = [16, 0]"), "model.ranks[1]: expected an integer >= 1, got 0"),
        (with_model("ranks = [16, 16]"), "model.ranks: expected values without repeats, got [16, 16]"),
        (with_model("max_loras = -1"), "model.max_loras: expected an integer >= 1, got -1"),
        (with_model("max_loras = 4294967296"), "model.max_loras: expected an integer <= 2147483647"),
        (with_model("fully_sharded = 1"), "model.fully_sharded: expected true or false, got 1"),
        (with_model("target_modules = []"), "model.target_modules: expected at least one value, got []"),
        (with_model("target_modules = [3]"), "model.target_modules[0]: expected a line of text, got 3"),
        (with_model("adapter = 3"), "model.adapter: expected a line of text, got 3"),
        (with_model("adapter = []"), "model.adapter: expected at least one value"),
        (
            with_model("dual_stream = true\nadd_inputs = true"),
            "model.add_inputs: leave this out with dual_stream, which decides it for each layer",
        ),
        (with_model('dtype = "float32"'), 'model.dtype: expected bfloat16 or float16, got "float32"'),
        (with_model("add_inputs = [1]"), "model.add_inputs[0]: expected true or false, got 1"),
        ('[model]\nconfig = "x"', "model.m is missing"),
        ("[model]\nm = 1", "model.config is missing"),
        ('kernels = ["lora_shrnk"]\n' + PROBLEM, 'kernels[0]: unknown kernel "lora_shrnk"; did you mean lora_shrink?'),
        ("kernels = []\n" + PROBLEM, "kernels: expected at least one value"),
        ('kernels = "lora_shrink"\n' + PROBLEM, 'kernels: expected a list, got "lora_shrink"'),
        ('kernels = ["lora_expand"]\n' + PROBLEM, "kernels: this file has no problem of lora_expand"),
        (PROBLEM.replace("lora_shrink", "attention"), 'problem[0].kernel: unknown kernel "attention"; expected one of'),
        (PROBLEM.replace("k = 4096", ""), "problem[0].k is missing"),
        (PROBLEM + "i = 768", "problem[0].i: expected no i for lora_shrink"),
        (PROBLEM + "add_inputs = true", "problem[0].add_inputs: this has no meaning for lora_shrink; leave it out"),
        (PROBLEM + "slice_sizes = [16, 16]", "problem[0].slice_sizes: expected 1 widths, of which the widest is n 16"),
        (PROBLEM + "slice_sizes = 16", "problem[0].slice_sizes: expected a list, got 16"),
        (PROBLEM + "slises = 16", "problem[0].slises: unknown key; did you mean slice_sizes or num_slices?"),
        (PROBLEM + PROBLEM, "problem[1]: lora_shrink L4.s1.m16.k4096.n16.bfloat16 has the same lookup as problem[0]; "
        "leave one out"),
        ("problem = 3", "problem: expected a list, got 3"),
        ("problem = [3]", "problem[0]: expected a table, got 3"),
        (PROBLEM + "[space.lora_shrink]\nblock_m = []", "space.lora_shrink.block_m: expected at least one value"),
        (PROBLEM + "[space.lora_shrink]\nblock_m = [16, 24]", "space.lora_shrink.block_m: expected powers of two, got"),
        (PROBLEM + "[space.lora_shrink]\nblok_m = [16]", "space.lora_shrink.blok_m: unknown parameter; did you mean"),
        (PROBLEM + "[space.lora_expand]\nsplit_k = [16]", "space.lora_expand.split_k: unknown parameter; expected"),
        (PROBLEM + "[space.shrink]\nblock_m = [16]", 'space.shrink: unknown kernel "shrink"; did you mean lora_shrink'),
        (PROBLEM + "[space]\nlora_shrink = 3", "space.lora_shrink: expected a table, got 3"),
        (PROBLEM + "[budget]\nlaunched_configs = 0", "budget.launched_configs: expected an integer >= 1, got 0"),
        (PROBLEM + "[budget]\ntrials = 4", "budget.trials: unknown key; expected one of launched_configs"),
        (PROBLEM + "[budget]\ncompile_deadline_s = nan", "budget.compile_deadline_s: expected a number of seconds > 0"),
        (PROBLEM + '[search]\nsampler = "gpp"', 'search.sampler: expected one of grid-gp, random, tpe, gp, coordinate'),
        (PROBLEM + "[search]\nseed = -1", "search.seed: expected an integer >= 0"),
        (PROBLEM + "[search]\nseed = 1979-05-27", 'search.seed: expected an integer >= 0 and < 2^32, got "1979-05-27"'),
        ("a = [model", "not TOML: "),
        ("[model]\nm = 1.2.3", "not TOML: Expected newline or end of document after a statement (at line 2"),
        ("[model]\nm = ", "not TOML: Invalid value (at line 2, the end)"),
    ],
)  # fmt: skip
def test_errors_name_file_key_and_expected_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        load(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'x.toml'}: {message}")
    assert "\n" not in line


def test_the_number_of_further_errors_is_told(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"model\.config is missing \(and 1 more\)"):
        load(tmp_path, "[model]\nrank = 3\nm = 1")


@pytest.mark.parametrize("content", [b"\xff", b"name = '\xe9'"])
def test_files_that_are_not_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(StudyFileError, match=r"x\.toml: expected UTF-8 text"):
        load_study_file(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"no\.toml: No such file"):
        load_study_file(tmp_path / "no.toml")
    with pytest.raises(StudyFileError, match="Is a directory"):
        load_study_file(tmp_path)


def test_the_models_config_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((LLAMA / "config.json").read_text())
    assert load(tmp_path, '[model]\nconfig = "config.json"\nm = 1').problems()
    with pytest.raises(ModelError, match=r"nowhere: No such file"):
        load(tmp_path, '[model]\nconfig = "nowhere"\nm = 1')


KEYS = st.sampled_from(
    ["name", "kernels", "model", "problem", "space", "budget", "search", "config", "tensor_parallel", "ranks",
     "max_loras", "m", "k", "n", "i", "dtype", "num_slices", "slice_sizes", "add_inputs", "kernel", "lora_shrink",
     "lora_expand", "block_m", "split_k", "launched_configs", "sampler", "seed", "x y", ""]
)  # fmt: skip
SCALARS = (
    st.integers(-2, 2**33) | st.floats() | st.booleans() | st.dates()
    | st.sampled_from(["lora_shrink", "lora_expand", "bfloat16", "grid-gp", LLAMA.as_posix(), ""])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)


@st.composite
def near_studies(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a study file that is right but for a few values."""
    problem: dict[str, Any] = {"kernel": "lora_shrink", "max_loras": 4, "num_slices": 1, "m": [1, 2], "k": 64, "n": 16}
    data: dict[str, Any] = {
        "model": {"config": LLAMA.as_posix(), "m": [1]}, "problem": [problem],
        "space": {"lora_shrink": {"block_m": [16]}}, "budget": {}, "search": {"seed": 1},
    }  # fmt: skip
    tables = st.sampled_from([data, data["model"], problem, data["space"], data["budget"], data["search"]])
    for _ in range(draw(st.integers(0, 2))):
        table: dict[str, Any] = draw(tables)
        table[draw(KEYS)] = draw(VALUES)
    return data


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5) | near_studies())
def test_any_tables_load_or_are_refused_in_one_line(data: dict[str, Any]) -> None:
    study = outcome_of(lambda: parse_study(data, Path("x.toml")))
    assert isinstance(study, str) or study.problems()


def outcome_of(read: Callable[[], StudyFile]) -> StudyFile | str:
    """Return what reading gives: the study, or the one line of why not."""
    try:
        return read()
    except InputError as error:
        line = str(error)
    assert "\n" not in line
    return line


def toml(value: Any) -> str:
    """Write a value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(near_studies())
def test_files_and_tables_say_the_same(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text("".join(f"{toml(key)} = {toml(value)}\n" for key, value in data.items()), encoding="utf-8")
    assert outcome_of(lambda: load_study_file(path)) == outcome_of(lambda: parse_study(data, path))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    with pytest.raises(StudyFileError) as caught:
        load_study_file(path)
    assert "\n" not in str(caught.value)


PACKED: dict[str, Any] = {
    "kernel": "fused_moe_lora_w13_shrink", "max_loras": 4, "num_slices": 1, "m": 16, "k": 16, "n": 3072, "i": 5888,
    "num_experts": 32, "top_k": 4, "packed_gate_up": True,
}  # fmt: skip


def test_experts_whose_gate_and_up_are_one_tensor() -> None:
    down = {**PACKED, "kernel": "fused_moe_lora_w2_shrink", "i": 2944}
    w13, w2 = parse_study({"problem": [PACKED, down]}, Path("s.toml")).problems()
    assert w13.experts == w2.experts == Experts(32, 4, packed=True)
    assert kernel_spec(w13.kernel).joint_group(w13) == kernel_spec(w2.kernel).joint_group(w2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"i": 2881},
            "problem[0].i: expected an even number with packed_gate_up, because it is the size of gate and "
            "up together, got 2881",
        ),
        (
            {"num_slices": 2},
            "problem[0].num_slices: expected 1 for fused_moe_lora_w13_shrink with packed_gate_up, got 2",
        ),
        ({"num_slices": 3, "packed_gate_up": False}, "problem[0].num_slices: expected 1 or 2 for fused_moe"),
        ({"num_slices": 2, "kernel": "fused_moe_lora_w2_expand"}, "problem[0].num_slices: expected 1 for fused_moe"),
        ({"packed_gate_up": 1}, "problem[0].packed_gate_up: expected true or false, got 1"),
    ],
)
def test_slices_of_experts_that_no_engine_asks_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        parse_study({"problem": [{**PACKED, **changes}]}, Path("s.toml"))
    assert message in str(caught.value)


def test_a_dense_problem_has_no_experts_to_pack() -> None:
    dense = {
        "kernel": "lora_shrink",
        "max_loras": 4,
        "num_slices": 1,
        "m": 16,
        "k": 64,
        "n": 16,
        "packed_gate_up": True,
    }
    with pytest.raises(StudyFileError, match="packed_gate_up: this has no meaning for lora_shrink"):
        parse_study({"problem": [dense]}, Path("s.toml"))
