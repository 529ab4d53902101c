"""An engine with a file format of its own is tuned for, written, merged and compared by adding it alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import SUFFIX, FakeEngine, installed
from helpers import H100, ROOT, Cli

from bo_tune.core.outcome import Compilation, Measurement
from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import read_entries, read_provenance, read_table, write_tables
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.registry import address_of, engine_of, engine_of_file, served_problems
from bo_tune.errors import InputError, TableError
from bo_tune.formats.recording import Recording, recording_file_name, write_recording
from bo_tune.kernels.registry import kernel_spec

NAME = f"nvidia-h100-80gb-hbm3{SUFFIX}"


@pytest.fixture(autouse=True)
def engine() -> Iterator[FakeEngine]:
    with installed() as engine:
        yield engine


def problem_of(rows: int) -> SizedProblem:
    return SizedProblem("rms_norm", (("cols", 4096), ("rows", rows)))


def time_us(config: Config, rows: int) -> float:
    return 5.0 + abs(config["BLOCK"] - 1024) / 512 + abs(config["num_warps"] - (4 if rows > 8 else 2))


def recorded(folder: Path, *rows: int) -> Path:
    space: SearchSpace = kernel_spec("rms_norm").search_space
    folder.mkdir()
    for count in rows:
        problem = problem_of(count)
        path = folder / recording_file_name(H100, problem)
        outcomes = [
            (config, Measurement((time_us(config, count),) * 10, compilation=Compilation(0.1))) for config in space
        ]
        default_us = time_us(kernel_spec("rms_norm").default_config(problem), count)
        recording = Recording.of(
            path, problem, H100, outcomes, kernel_source="fake 1", space=space, default_time_us=default_us
        )
        write_recording(path, recording)
    return folder


def test_it_is_tuned_for_and_written_in_its_own_format(cli: Cli, tmp_path: Path) -> None:
    grids = recorded(tmp_path / "grids", 1, 16)
    done = cli("tune", "--device", f"replay:{grids}", "--out", tmp_path / "tuned", "--budget", 16, "--no-stop")
    assert done.code == 0, done.err
    text = (tmp_path / "tuned" / NAME).read_text()
    assert text == "cols=4096 rows=1: BLOCK 1024, num_warps 2\ncols=4096 rows=16: BLOCK 1024, num_warps 4\n"
    origin = read_provenance(tmp_path / "tuned" / NAME)["cols=4096", "rows=16"]
    assert (origin.problem, origin.time_us, origin.kernel_source) == (problem_of(16), 5.0, "fake 1")


def test_a_lookup_that_it_would_stop_at_is_named(cli: Cli, tmp_path: Path) -> None:
    grids = recorded(tmp_path / "grids", 16)
    done = cli("tune", "--device", f"replay:{grids}", "--out", tmp_path / "tuned", "--budget", 4)
    assert f"{NAME}: cols=4096 rows=1: an engine that looks this up stops" in done.out


def test_its_folders_are_compared_and_merged(cli: Cli, tmp_path: Path) -> None:
    grids = recorded(tmp_path / "grids", 1, 16)
    tuned, grid = tmp_path / "tuned", tmp_path / "grid"
    assert cli("tune", "--device", f"replay:{grids}", "--out", tuned, "--budget", 16, "--no-stop").code == 0
    assert cli("grid", "--device", f"replay:{grids}", "--out", grid).code == 0
    assert cli("compare", tuned, grid, "--recordings", grids, "--json", tmp_path / "compared.json", "--quiet").code == 0
    compared = json.loads((tmp_path / "compared.json").read_text())
    assert (compared["common_entries"], compared["max_regret_percent"]) == (2, 0.0)
    config = {"BLOCK": 256, "num_warps": 1}
    write_tables(tmp_path / "host2", [TunedEntry(NAME, ("cols=4096", "rows=32"), config, None)])
    assert cli("merge", tuned, tmp_path / "host2", "--out", tmp_path / "merged").code == 0
    assert [entry.keys[1] for entry in read_entries(tmp_path / "merged" / NAME)] == ["rows=1", "rows=16", "rows=32"]


def test_a_file_it_cannot_read_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("cols=4096 rows=1: BLOCK 1024\nrubbish\n")
    with pytest.raises(TableError, match=rf"{NAME}: line 2: expected keys"):
        read_table(tmp_path / NAME)


def test_engines_are_told_apart_by_kernel_and_by_file_name(engine: FakeEngine) -> None:
    assert engine_of("rms_norm") is engine
    assert engine_of_file(NAME) is engine
    vllm = engine_of("lora_shrink")
    assert vllm is not engine
    assert engine_of_file("NVIDIA_H200_SHRINK.json") is vllm
    assert address_of(problem_of(16), H100) == (NAME, ("cols=4096", "rows=16"))
    with pytest.raises(InputError, match="no engine looks up configs of the kernel 'softmax'"):
        engine_of("softmax")


def test_a_models_problems_are_those_of_all_engines() -> None:
    model = ModelStudy.of(
        str(ROOT / "studies" / "models" / "llama-3.1-8b"), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[16]
    )
    found = served_problems(model)
    assert found[problem_of(16)] == ("norm",)
    assert {problem.kernel for problem in found} == {"lora_shrink", "lora_expand", "rms_norm"}
    assert list(served_problems(model, ["rms_norm"])) == [problem_of(16)]
