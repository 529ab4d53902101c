"""Reading what the plugin wrote: files of several processes, torn ones, and whatever else a file may hold."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from observed_engine import header, layer, shrink, steps, written

from bo_tune.engines.vllm.observed.problems import families
from bo_tune.engines.vllm.observed.reading import Step, read_observed
from bo_tune.errors import InputError


def test_files_of_several_processes_are_put_together(tmp_path: Path) -> None:
    written(tmp_path / "l.7.jsonl", shrink(16, count=3), steps(9, 16, 9, 2, count=5))
    written(tmp_path / "l.7-2.jsonl", shrink(16, count=4), shrink(8), steps(9, 16, 9, 2, count=6), gpu=None)
    written(tmp_path / "l.old.jsonl", shrink(1))
    written(tmp_path / "other.7.jsonl", shrink(2))
    observed = read_observed(tmp_path / "l.jsonl")
    assert [file.name for file in observed.files] == ["l.7-2.jsonl", "l.7.jsonl"]
    assert observed.gpu == "NVIDIA H100 80GB HBM3"
    assert observed.steps == {Step(9, 16, 9, 2): 11}
    assert [(one.problem.k, one.counts) for one in families(observed)] == [(4096, {16: 7, 8: 1})]
    alone = read_observed(tmp_path / "l.7.jsonl")
    assert alone.files == [tmp_path / "l.7.jsonl"]
    assert alone.steps == {Step(9, 16, 9, 2): 5}


def test_what_a_killed_process_did_not_finish_is_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "l.jsonl", shrink(16), shrink(8))
    whole = path.read_bytes()
    lengths = []
    for cut in range(len(whole), whole.index(b"\n"), -1):
        path.write_bytes(whole[:cut])
        lengths.append(len(read_observed(path).lookups))
    assert lengths[0] == 2
    assert set(lengths[1:]) == {1, 0}


def test_lines_of_a_later_plugin_may_say_more(tmp_path: Path) -> None:
    line = shrink(16)
    line["launch"]["later"] = line["later"] = 1
    (found,) = read_observed(written(tmp_path / "l.jsonl", line, later=True)).lookups
    assert found.arguments["batch"] == 16


def test_layers_are_named_as_in_tables(tmp_path: Path) -> None:
    names = ("model.layers.*.self_attn.qkv_proj", "model.layers.*.mlp.shared_expert.down_proj", "lm_head",
             "model.embed_tokens", "language_model.model.layers.*.mlp.experts")  # fmt: skip
    observed = read_observed(written(tmp_path / "l.jsonl", *(layer(name, [], []) for name in names)))
    assert [one.label for one in observed.layers] == [
        "qkv_proj", "shared_expert.down_proj", "lm_head", "embed_tokens", "experts",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a file of lookups that bo_tune recorded in an engine"),
        ("{}\n", "expected a file of lookups"),
        (json.dumps(header(version=2)) + "\n", "expected version 1 of the format, got 2"),
        (json.dumps(header()) + "\n{}\n", "line 2: expected a lookup, a layer or a step, got"),
        (json.dumps(header()) + "\nno JSON\n", 'line 2: expected a lookup, a layer or a step, got "no JSON"'),
        (json.dumps(header()) + "\n" + json.dumps(steps(1, 0, 1, 1)) + "\n", "line 2: expected"),
    ],
)
def test_what_is_no_file_of_lookups_is_named(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_observed(path)
    assert str(error.value).startswith(str(path))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_without_files_says_how_there_will_be_some(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no file that a process wrote under this name \(l\.PID\.jsonl\).*BO_TUNE_LOOKUPS"
    ):
        read_observed(tmp_path / "l.jsonl")
    with pytest.raises(InputError, match="No such file"):
        read_observed(tmp_path / "none" / "l.jsonl")
    with pytest.raises(InputError, match="Is a directory"):
        read_observed(tmp_path)


@pytest.mark.parametrize("differs", [{"gpu": "NVIDIA H200"}, {"engine_version": "0.26.0"}, {"dual_stream": True}])
def test_files_of_two_engines_are_refused(tmp_path: Path, differs: dict[str, object]) -> None:
    written(tmp_path / "l.1.jsonl", shrink(16))
    written(tmp_path / "l.2.jsonl", shrink(16), **differs)
    with pytest.raises(InputError, match="expected files of one engine"):
        read_observed(tmp_path / "l.jsonl")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    place=st.sampled_from(["arguments", "launch", "shapes", "batch", "op_type", "rank", "num_slices", "count"]),
    value=ANYTHING,
)
def test_whatever_stands_in_a_line_ends_in_one_line(
    tmp_path: Path, data: st.DataObject, place: str, value: object
) -> None:
    line = shrink(16)
    owner = next(one for one in (line, line["arguments"], line["launch"]) if place in one)
    owner[place] = value
    path = written(tmp_path / "l.jsonl", line)
    try:
        families(read_observed(path))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a line that can be used is as good
