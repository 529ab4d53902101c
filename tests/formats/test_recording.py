"""Recordings: lossless in and out, and one clear line for each way of being broken."""

import gzip
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import BUNDLED
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.gpus import stand_in_for
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, Measurement, Outcome, Resources
from bo_tune.core.problem import GpuInfo, LoraProblem, SizedProblem
from bo_tune.core.space import SearchSpace, config_key
from bo_tune.errors import RecordingError
from bo_tune.formats.recording import Recording, read_recording, read_recordings, recording_file_name, write_recording
from bo_tune.formats.recording_format import invalidity_of, reason_of
from bo_tune.kernels.registry import kernel_spec

PATHS = sorted(BUNDLED.glob("*.t4.json.gz"))
EXPAND = BUNDLED / "h100.lora_expand.L4.s3.m4096.k64.n4096.t4.json.gz"
H100 = stand_in_for("NVIDIA H100 80GB HBM3")
RECORDABLE = [reason for reason in InvalidReason if reason is not InvalidReason.NOT_RECORDED]


def document(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return parsed


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_bundled_recordings_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    recording = read_recording(path)
    assert recording_file_name(recording.gpu, recording.problem) == path.name
    copy = tmp_path / path.name
    write_recording(copy, recording)
    again = read_recording(copy)
    assert replace(again, path=path, metadata={}) == replace(recording, metadata={})
    original, written = document(path), document(copy)
    del written["metadata"]["gpu_info"]
    assert written == original


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_what_is_read_is_what_stands_there(path: Path) -> None:
    recording = read_recording(path)
    raw = document(path)
    assert recording.space.names == tuple(raw["results"][0]["configuration"])
    assert recording.configs() == [result["configuration"] for result in raw["results"]]
    assert set(recording.space.names) == set(kernel_spec(recording.problem.kernel).search_space.names)
    assert len(recording.entries) == len(recording.space)
    times = [m["value"] for result in raw["results"] for m in result["measurements"] if m["name"] == "time"]
    assert recording.best_time_us == min(times)
    best = recording.entry(recording.best)
    assert best is not None
    assert best.time_us == min(times)
    assert best.reason is None
    assert recording.default_time_us == raw["metadata"]["vllm_default_time_us"]
    assert (recording.gpu.sm_count, recording.gpu.shared_memory_bytes) == (132, 232448)
    assert {entry.reason for entry in recording.entries.values()} == {
        None, InvalidReason.COMPILE_TIMEOUT, InvalidReason.OUT_OF_SHARED_MEMORY
    }  # fmt: skip


def test_a_folder_is_read_in_order_of_names() -> None:
    assert [recording.path for recording in read_recordings(BUNDLED)] == PATHS


def test_reading_a_large_grid_is_fast() -> None:
    path = next(path for path in PATHS if "lora_shrink" in path.name)
    read_recording(path)
    durations = []
    for _ in range(3):
        start = time.process_time()
        read_recording(path)
        durations.append(time.process_time() - start)
    assert min(durations) < 0.5, "0.2 s where nothing else runs"


def moe_document() -> dict[str, Any]:
    """Return a recording of another kernel, with the fields of a fused MoE one: ``i`` and no ``slice_sizes``."""
    raw = document(EXPAND)
    raw["results"] = raw["results"][:8]
    raw["metadata"]["kernel"] = "fused_moe_lora_w4_expand"
    raw["metadata"]["shape"] = {
        "max_loras": 4, "num_slices": 2, "m": 16, "k": 16, "n": 2048, "i": 768, "num_experts": 128, "top_k": 8,
        "routing": "uniform", "gemm_n": 768, "gemm_k": 16,
    }  # fmt: skip
    del raw["metadata"]["add_inputs"]
    return raw


def test_other_kernels_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "moe.t4.json"
    path.write_text(json.dumps(moe_document()))
    with pytest.raises(RecordingError, match="this is a recording of the kernel fused_moe_lora_w4_expand"):
        read_recording(path)
    recording = read_recording(path, any_kernel=True)
    assert recording.problem.shape_label == "L4.s2.m16.k16.n2048.i768"
    assert recording_file_name(recording.gpu, recording.problem) == (
        "h100.fused_moe_lora_w4_expand.L4.s2.m16.k16.n2048.i768.t4.json.gz"
    )
    copy = tmp_path / "copy.t4.json"
    write_recording(copy, recording)
    written = json.loads(copy.read_text())
    del written["metadata"]["gpu_info"]
    assert written == moe_document()


Mutation = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda d: d.pop("schema_version"), "schema_version is missing"),
        (lambda d: d.update(schema_version="2.0.0"), "schema_version: expected 1.0.0, got 2.0.0"),
        (lambda d: d.pop("metadata"), "metadata is missing"),
        (lambda d: d.update(metadata=[]), "metadata: expected an object, got []"),
        (lambda d: d.pop("results"), "results is missing"),
        (lambda d: d.update(results=[]), "results: expected at least one config"),
        (lambda d: d["metadata"].pop("gpu"), "metadata.gpu is missing"),
        (lambda d: d["metadata"].pop("kernel_source"), "metadata.kernel_source is missing"),
        (lambda d: d["metadata"].update(kernel="attention"), "this is a recording of the kernel attention"),
        (lambda d: d["metadata"].update(kernel="lora_shrink"), "expected configs of lora_shrink, with block_m, "),
        (lambda d: d["metadata"].update(dtype="int8"), "metadata: dtype: expected one of"),
        (lambda d: d["metadata"].update(vllm_default_time_us=0), "metadata.vllm_default_time_us: expected a number fr"),
        (lambda d: d["metadata"].update(units={"runtimes": "ms"}), "metadata.units: expected"),
        (lambda d: d["metadata"].update(add_inputs=1), "metadata.add_inputs: expected true, false or null"),
        (lambda d: d["metadata"].update(gpu_info={"capability": [9]}), "metadata.gpu_info.capability: expected two"),
        (lambda d: d["metadata"]["shape"].pop("m"), "metadata.shape.m is missing"),
        (lambda d: d["metadata"]["shape"].update(k="64"), 'metadata.shape.k: expected an integer, got "64"'),
        (lambda d: d["metadata"]["shape"].update(m=0), "metadata: m: expected an integer from 1 to 2147483647, got 0"),
        (lambda d: d["metadata"]["shape"].update(slice_sizes=[1]), "metadata: slice_sizes: expected"),
        (lambda d: d["metadata"]["shape"].update(slice_sizes="x"), "metadata.shape.slice_sizes: expected an array"),
        (lambda d: d["results"].append(3), "results[640]: expected an object"),
        (lambda d: d["results"].append(d["results"][0]), "results[640]: configuration: this config occurs twice"),
        (lambda d: d["results"][2].pop("configuration"), "results[2]: configuration is missing"),
        (lambda d: d["results"][2]["configuration"].pop("num_ctas"), "results[2]: configuration: expected the param"),
        (lambda d: d["results"][2]["configuration"].update(block_m=1.5), "results[2]: configuration: expected int"),
        (lambda d: d["results"][2]["times"].update(runtimes=[1.0, 0]), "results[2]: times.runtimes: expected nu"),
        (lambda d: d["results"][2]["times"].update(runtimes=["1"]), "results[2]: times.runtimes: expected nu"),
        (lambda d: d["results"][2]["times"].update(runtimes=[]), "results[2]: expected times.runtimes"),
        (lambda d: d["results"][2]["times"].update(compilation_time=-1), "results[2]: times.compilation_time: expec"),
        (lambda d: d["results"][2].update(invalidity="odd"), "results[2]: invalidity: expected one of compile"),
        (lambda d: d["results"][2].update(measurements=[]), "results[2]: expected times.runtimes"),
        (lambda d: d["results"][2].update(measurements=[1]), "results[2]: measurements: expected objects"),
        (lambda d: d["results"][2]["measurements"][0].update(value=-3), "results[2]: measurements.time: expected a nu"),
        (lambda d: d["results"][2]["measurements"][0].update(unit="ms"), "results[2]: measurements.time: expected the"),
        (lambda d: d["results"][2]["measurements"][1].update(value=1.5), "results[2]: measurements.shared_memory: exp"),
    ],
)  # fmt: skip
def test_malformed_recordings_name_file_and_place(tmp_path: Path, mutate: Mutation, message: str) -> None:
    raw = document(EXPAND)
    mutate(raw)
    path = tmp_path / "bad.t4.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(RecordingError) as caught:
        read_recording(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EXPAND.read_bytes()[:20_000], "truncated"),
        (EXPAND.read_bytes()[:-4], "truncated"),
        (b"", "not JSON"),
        (b"{}", "not gzip"),
        (EXPAND.read_bytes()[:500] + b"\xff" * 40 + EXPAND.read_bytes()[540:], "not gzip, or damaged"),
        (gzip.compress(b"[" * 100_000, mtime=0), "not JSON"),
        (gzip.compress(b"\xff\xfe{", mtime=0), "expected UTF-8 text"),
        (gzip.compress(b"{} trailing", mtime=0), "not JSON"),
        (gzip.compress(b'{"a": NaN}', mtime=0), "not JSON: NaN is not a number"),
        (gzip.compress(b"[]", mtime=0), "expected a T4 results object"),
    ],
)
def test_files_that_hold_no_recording(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.t4.json.gz"
    path.write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        read_recordings(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(RecordingError, match="no recordings"):
        read_recordings(tmp_path)
    with pytest.raises(RecordingError, match="nowhere: No such file"):
        read_recordings(tmp_path / "nowhere")
    with pytest.raises(RecordingError, match="Not a directory"):
        read_recordings(tmp_path / "notes.json")


def test_a_recording_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="cannot be written"):
        write_recording(tmp_path / "file" / "x.t4.json", read_recording(EXPAND))


def test_a_recording_without_a_correct_config_has_no_best() -> None:
    recording = read_recording(EXPAND)
    invalid = {key: entry for key, entry in recording.entries.items() if entry.reason}
    with pytest.raises(RecordingError, match="no config of this recording has a time"):
        _ = replace(recording, entries=invalid).best


@given(st.sampled_from(RECORDABLE), st.text(max_size=20))
def test_reasons_survive_the_format(reason: InvalidReason, detail: str) -> None:
    invalidity, text = invalidity_of(reason, detail)
    assert reason_of(invalidity, text) is reason
    assert detail in text
    assert invalidity_of(reason, text) == (invalidity, text)


def test_not_recorded_is_no_result() -> None:
    with pytest.raises(ValueError, match="not recorded"):
        invalidity_of(InvalidReason.NOT_RECORDED, "")


TIME = st.floats(0.001, 1e6).map(lambda value: round(value, 3))
COUNT = st.none() | st.integers(1, 10**6)
MEASUREMENTS = st.builds(
    Measurement,
    runtimes_us=st.lists(TIME, min_size=1, max_size=4).map(tuple),
    compilation=st.builds(Compilation, st.integers(0, 10**6).map(lambda ms: ms / 1000)),
    resources=st.builds(Resources, COUNT, st.just(32), st.integers(0, 9)),
    relative_error=st.none() | st.floats(0, 1),
)
INVALIDS = st.builds(Invalid, st.sampled_from(RECORDABLE), st.text(min_size=1, max_size=9))


@given(
    st.lists(MEASUREMENTS | INVALIDS, min_size=1, max_size=12), st.none() | TIME, st.booleans(), st.sampled_from("zs")
)
def test_recordings_of_outcomes_round_trip(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[Outcome], default: float | None, adds: bool, ending: str
) -> None:
    ranges = {"block_m": (16, 32), "block_n": (16, 32, 64), "num_warps": (4, 8)}
    space = SearchSpace.of(ranges)
    gpu = GpuInfo("A GPU", (12, 1), 7, 1000, 100, 10, 1)
    problem = LoraProblem("some_kernel", 4, 2, 16, 64, 32, slice_sizes=(32, 8), add_inputs=adds, dtype="float16")
    path = tmp_path_factory.getbasetemp() / f"trip.t4.json{'.gz' if ending == 'z' else ''}"
    recording = Recording.of(
        path, problem, gpu, zip(space, outcomes, strict=False), kernel_source="test", space=space,
        default_time_us=default, metadata={"torch": "2.11.0", "note": [1]},
    )  # fmt: skip
    write_recording(path, recording)
    again = read_recording(path, any_kernel=True)
    assert (again.problem, again.gpu, again.default_time_us) == (problem, gpu, default)
    assert (again.metadata["torch"], again.metadata["note"]) == ("2.11.0", [1])
    assert list(again.entries) == list(recording.entries)
    for key, entry in recording.entries.items():
        read = again.entries[key]
        detail = read.detail if entry.detail and read.detail.endswith(entry.detail) else entry.detail
        assert read == replace(entry, detail=detail)
    write_recording(path, again)
    assert read_recording(path, any_kernel=True) == again


def test_re_measured_times_replace_the_estimate() -> None:
    space = SearchSpace.of({"block_m": (16, 32)})
    outcomes = [(config, Measurement((4.0, 4.0))) for config in space]
    recording = Recording.of(
        EXPAND, LoraProblem("x", 1, 1, 1, 1, 1), H100, outcomes, kernel_source="test", space=space,
        times_us={config_key({"block_m": 32}): 3.5},
    )  # fmt: skip
    assert (recording.best, recording.best_time_us) == ({"block_m": 32}, 3.5)


def test_names_of_files_tell_unusual_problems_apart() -> None:
    problem = LoraProblem("lora_expand", 4, 1, 16, 16, 4096, add_inputs=True)
    gpu = stand_in_for("NVIDIA A100-SXM4-80GB")
    names = [
        recording_file_name(gpu, problem),
        recording_file_name(gpu, replace(problem, add_inputs=False)),
        recording_file_name(gpu, replace(problem, dtype="float16")),
    ]
    assert names == [
        "a100.lora_expand.L4.s1.m16.k16.n4096.t4.json.gz",
        "a100.lora_expand.L4.s1.m16.k16.n4096.overwrite.t4.json.gz",
        "a100.lora_expand.L4.s1.m16.k16.n4096.float16.t4.json.gz",
    ]


def test_a_kernel_whose_name_leads_elsewhere_names_no_file() -> None:
    gpu = stand_in_for("../../x")
    assert recording_file_name(gpu, SizedProblem("softmax", (("rows", 1),))) == "x.softmax.rows=1.t4.json.gz"
    for kernel in ("../../x", "/abs/x", "a\nb"):
        with pytest.raises(RecordingError, match="cannot be the name of a file"):
            recording_file_name(gpu, SizedProblem(kernel, (("rows", 1),)))


def test_an_unknown_gpu_rules_nothing_out() -> None:
    gpu = stand_in_for("Some GPU 9000")
    assert gpu.name == "Some GPU 9000"
    assert gpu.shared_memory_bytes == H100.shared_memory_bytes


def test_a_recording_of_another_kernel_is_read_where_any_is_wanted(tmp_path: Path) -> None:
    problem = SizedProblem("softmin", (("rows", 4096), ("dtype", "float16")))
    whole = read_recording(EXPAND)
    path = tmp_path / recording_file_name(whole.gpu, problem)
    assert path.name == "h100.softmin.rows=4096.dtype=float16.t4.json.gz"
    write_recording(path, replace(whole, path=path, problem=problem, metadata={}))
    with pytest.raises(RecordingError, match="this is a recording of the kernel softmin"):
        read_recordings(tmp_path)
    (read,) = read_recordings(tmp_path, any_kernel=True)
    assert read.problem == problem
    assert read.entries == whole.entries
    assert not {"dtype", "add_inputs"} & set(read.metadata)
    raw = json.loads(gzip.decompress(path.read_bytes()))
    raw["metadata"]["shape"]["sizes"]["rows"] = [4096]
    bad = tmp_path / "bad.t4.json"
    bad.write_text(json.dumps(raw))
    with pytest.raises(RecordingError, match=r"bad.t4.json: metadata.shape.sizes: rows: expected a number"):
        read_recording(bad, any_kernel=True)


@pytest.mark.parametrize(
    ("default", "said"),
    [
        ([1], "metadata.default_config: expected an object"),
        ({"block_m": 16}, "metadata.default_config: expected the parameters block_k, block_m"),
        ({"block_m": "16"}, "metadata.default_config.block_m: expected an integer"),
    ],
)
def test_a_recorded_default_is_a_config(tmp_path: Path, default: object, said: str) -> None:
    whole = read_recording(EXPAND)
    if isinstance(default, dict) and "16" in default.values():
        default = {**whole.default_config, **default}
    path = tmp_path / "x.t4.json"
    write_recording(path, replace(whole, path=path, metadata={**whole.metadata, "default_config": default}))
    with pytest.raises(RecordingError, match=said):
        read_recording(path)


def test_the_default_of_a_recording_is_what_it_says(tmp_path: Path) -> None:
    whole = read_recording(EXPAND)
    path, other = tmp_path / "x.t4.json", dict(whole.best)
    write_recording(path, replace(whole, path=path, metadata={**whole.metadata, "default_config": other}))
    again = read_recording(path)
    assert again.default_config == other != whole.default_config
    assert again.default_time_us == whole.default_time_us
