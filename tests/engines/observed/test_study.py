"""What an engine looked up as a study: problems, keys m where its steps spend their time, and layers."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from observed_engine import expand, experts, layer, shrink, steps, written

from bo_tune.analysis.outlook import outlook
from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.core.surroundings import Linear, Mixture, Weights
from bo_tune.engines.models.problems import lookup_of
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.engines.vllm.observed.load import ANY_KEY_APART, COVERED_SHARE, estimate_us, place
from bo_tune.engines.vllm.observed.study import ObservedStudy
from bo_tune.errors import InputError
from bo_tune.formats.study_file import StudyFile
from bo_tune.kernels.registry import kernel_spec

LLAMA = ROOT / "studies" / "models" / "llama-3.1-8b"
MODEL = ModelStudy.of(str(LLAMA), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[1, 16, 2048])

QKV = layer("model.layers.*.self_attn.qkv_proj", [[4, 1, 16, 4096]] * 3, [[4, 1, n, 16] for n in (4096, 1024, 1024)])
O_PROJ = layer("model.layers.*.self_attn.o_proj", [[4, 1, 16, 4096]], [[4, 1, 4096, 16]])
HEAD = layer("lm_head", [[4, 1, 16, 4096]], [[4, 1, 128256, 16]], count=1)
EMBED = layer("model.embed_tokens", [[4, 128256, 16]], [[4, 1, 4096, 16]], count=1)


def lookups(*ms: int) -> list[dict[str, object]]:
    """What an engine with these layers looks up at some m; the vocabulary's only up to 64."""
    return [
        line
        for m in ms
        for line in (
            shrink(m, slices=3), expand(m, 4096, 1024, 1024), shrink(m), expand(m, 4096),
            *([expand(m, 128256)] if m <= 64 else []),
        )
    ]  # fmt: skip


def study(folder: Path, *documents: Mapping[str, object], ms: tuple[int, ...] = ()) -> ObservedStudy:
    return ObservedStudy.of(written(folder / "l.jsonl", *map(dict, documents)), ms)


def test_the_lookups_of_a_start_are_the_derived_ones(tmp_path: Path) -> None:
    lines = []
    for problem in MODEL.problems_by_layer():
        if problem.kernel == "lora_shrink":
            line = shrink(problem.m, problem.k, slices=problem.num_slices)
        else:
            line = expand(problem.m, *problem.slice_sizes)
        lines.append(line)
    observed = study(tmp_path, *lines, layer("x", [], []))
    assert observed.kernels == MODEL.kernels
    assert observed.max_loras == MODEL.max_loras
    assert {lookup_of(problem) for problem in observed.problems_by_layer()} == {
        lookup_of(problem) for problem in MODEL.problems_by_layer()
    }
    assert set(observed.lookups_by_layer()) == set(MODEL.problems_by_layer())


def test_without_steps_every_m_has_a_key(tmp_path: Path) -> None:
    observed = study(tmp_path, *lookups(1, 16, 2048), QKV, O_PROJ, HEAD, EMBED)
    assert observed.ms == (1, 16, 2048)
    assert "no step with adapters" in (observed.note or "")
    by_layer = observed.problems_by_layer(["lora_expand"])
    names = {(problem.m, problem.n, problem.num_slices): layers for problem, layers in by_layer.items()}
    assert names[16, 4096, 3] == ("qkv_proj",)
    assert names[16, 4096, 1] == ("o_proj", "embed_tokens")
    # The vocabulary is never looked up with 2,048, and nothing is nearer to its largest m than 16.
    assert {m for m, n, _ in names if n == 128256} == {1, 16}


def test_steps_place_the_keys(tmp_path: Path) -> None:
    sizes = [steps(13, 16, 13, 4, count=9000), steps(2000, 2000, 3, 2, count=800), steps(2040, 2040, 3, 2, count=40),
             steps(1, 1, 1, 1, count=1), steps(64, 64, 64, 0, count=10**6)]  # fmt: skip
    observed = study(tmp_path, *lookups(1, 16, 32, 64, 2048), QKV, O_PROJ, HEAD, EMBED, *sizes)
    assert observed.ms == (16, 2000), "1 takes no time, 2040 is near 2000, 32 never ran, 64 ran without adapters"
    assert observed.note is None
    mamba = {"lookup": "mamba", "arguments": {"headdim": 64, "batch": 16}, "count": 1}
    other = study(tmp_path, *lookups(16), *sizes, mamba)
    assert (
        other.note
        == "the engine also looked up configs of Mamba: of these only Mamba's are tuned from lookups, with --only mamba"
    )
    assert {problem.m for problem in observed.problems_by_layer()} == {16, 2000}
    head = LoraProblem("lora_expand", 4, 1, 13, 16, 128256, add_inputs=True)
    asked = observed.lookups_by_layer()
    assert asked[head] == ("lm_head",), "with the sequences of a step, not with its padded tokens"
    assert {problem.m for problem in asked if problem.n != 128256} == {1, 16, 32, 64, 2000, 2040, 2048}


def test_keys_can_be_named(tmp_path: Path) -> None:
    observed = study(tmp_path, *lookups(16, 2048), steps(16, 16, 16, 4), ms=(8, 512))
    assert {problem.m for problem in observed.problems_by_layer()} == {8, 512}


def test_layers_are_where_finalists_race(tmp_path: Path) -> None:
    observed = study(tmp_path, *lookups(1, 16, 2048), QKV, O_PROJ, HEAD, EMBED)
    layers = observed.layers()
    assert set(layers.values()) == {Linear(4096, (4096, 1024, 1024)), Linear(4096, (4096,))}
    assert layers[LoraProblem("lora_shrink", 4, 3, 16, 4096, 16)] == Linear(4096, (4096, 1024, 1024))
    assert not any(problem.n == 128256 for problem in layers), "the vocabulary's runs once for each sequence"
    int4 = {"layer": {**O_PROJ["layer"], "weights": "int32"}, "count": 1}
    beside = study(tmp_path, shrink(16), expand(16, 4096, adds=False), int4, shrink(64))
    assert set(beside.layers().values()) == {Linear(4096, (4096,), adds=False, weights=Weights.INT4)}


@pytest.mark.parametrize(
    ("way", "mixture"),
    [
        ({}, Mixture(2048, 1536, 768, Experts(128, 8))),
        ({"slices": 1, "i": 1536}, Mixture(2048, 1536, 768, Experts(128, 8, packed=True))),
        ({"slices": 1}, Mixture(2048, 768, 768, Experts(128, 8))),
    ],
    ids=["gate and up", "in one tensor", "no gate"],
)
def test_experts_are_a_layer(tmp_path: Path, way: dict[str, int], mixture: Mixture) -> None:
    line = layer("model.layers.*.mlp.experts", [], [], count=48)
    observed = study(tmp_path, shrink(16), *experts(16, **way), *experts(64, **way), line, steps(16, 16, 16, 4))
    asked = {problem: names for problem, names in observed.problems_by_layer().items() if problem.experts}
    assert len(asked) == 4
    assert set(asked.values()) == {("experts",)}
    assert all(observed.layers()[problem] == mixture for problem in asked)
    assert {observed.calls(family) for family in observed.families if family.problem.experts} == {48}
    alone = replace(StudyFile.from_observed(observed), kernels=("lora_shrink",))
    assert len(alone.problems()) == 1
    assert set(asked) < set(alone.looked_up()), "what a folder must hold besides"
    beside = replace(observed, observed=replace(observed.observed, dual_stream=True))
    assert not any(problem in beside.layers() for problem in asked), "on a stream of their own"


def test_an_engine_without_a_folder_looks_up_the_same_experts(tmp_path: Path) -> None:
    tuned, untuned = (study(tmp_path, *lines, layer("experts", [], [])) for lines in (experts(16), UNTUNED))
    assert untuned.problems_by_layer() == tuned.problems_by_layer()
    assert untuned.layers() == tuned.layers()


def test_an_engine_without_adapters_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looked up no configs of adapters; start it with --enable-lora"):
        study(tmp_path, steps(1, 1, 1, 0))


@given(st.dictionaries(st.integers(1, 16384), st.floats(0.001, 1e6), min_size=1, max_size=60))
def test_keys_are_near_where_the_time_is(times: dict[int, float]) -> None:
    keys = place(times)
    assert keys == sorted(set(keys))
    assert set(keys) <= set(times), "an m that no step had needs no key"
    near = sum(time for m, time in times.items() if abs(nearest_of(keys, m) - m) <= ANY_KEY_APART * m)
    assert near >= COVERED_SHARE * sum(times.values()) * (1 - 1e-9)


def test_estimates_grow_with_what_is_moved() -> None:
    problems = list(MODEL.problems_by_layer())
    for problem in problems:
        assert estimate_us(replace(problem, m=4096), 4) > estimate_us(replace(problem, m=1), 4)
        assert estimate_us(problem, 4) > estimate_us(problem, 1)


def test_rare_sizes_launch_fewer_configs_and_frequent_ones_more(tmp_path: Path) -> None:
    sizes = [steps(m, m, m, 4, count=count) for m, count in ((16, 10**6), (64, 2000), (256, 2000), (1024, 2000))]
    observed = study(tmp_path, shrink(16), shrink(1024), *sizes, ms=(16, 64, 256, 1024))
    problem = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
    rare = {replace(problem, m=m): 20 for m in (64, 256, 1024)}
    assert observed.budgets(40) == rare, "four sizes: none takes more than four times the mean"
    more = [steps(m, m, m, 4) for m in (32, 128)]
    observed = study(tmp_path, shrink(16), shrink(1024), *sizes, *more, ms=(16, 32, 64, 128, 256, 1024))
    assert observed.budgets(40)[problem] == 80
    assert set(observed.budgets(40).values()) == {20, 80}
    assert study(tmp_path, shrink(16)).budgets(40) == {}
    assert observed.budgets(1)[replace(problem, m=32)] == 1


UNTUNED = [
    {
        "lookup": "untuned_lora",
        "arguments": {"op_type": line["arguments"]["op_type"], "rank": 16, "M": 16},
        "launch": {
            "max_loras": 4, "num_slices": line["arguments"]["num_slices"], "top_k": 8, "dtype": "bfloat16",
            "shapes": {**line["launch"]["shapes"], "x": [[16, 2048]], "y": [[16, 8, 2048]]},
        },
        "count": 1,
    }
    for line in experts(16)
]  # fmt: skip
KINDS = [layer("experts", [], []), QKV, O_PROJ, HEAD, EMBED]
START = [shrink(16), expand(16, 4096), *experts(16), *UNTUNED, *KINDS, steps(1, 16, 4, 2)]


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a document of JSON: what holds it, and under what."""
    inside = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inside:
        yield document, key
        if isinstance(value, (dict, list)):
            yield from places(value)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_start_ends_in_one_line_or_in_problems(tmp_path: Path, data: st.DataObject) -> None:
    documents = copy.deepcopy(START)
    owner, key = data.draw(st.sampled_from([place for document in documents for place in places(document)]))
    value = owner[key]
    sizes = st.integers(0, 4) | st.integers(0, 4096) if isinstance(value, int) else st.just(value)
    fewer = st.just(value[1:]) if isinstance(value, list) else st.none()
    owner[key] = data.draw(sizes | fewer | st.none() | st.sampled_from([[], {}, True, "", [[]], 2**40, 0.5]))
    try:
        found = study(tmp_path, *documents)
        problems = found.problems_by_layer()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a start that can be used is as good
        return
    assert set(found.layers()) <= set(problems)
    assert set(found.budgets(40)) <= set(problems)
    assert outlook(list(problems), 40).studies >= len(problems)
    for problem in found.lookups_by_layer():
        assert kernel_spec(problem.kernel).default_config(problem)
