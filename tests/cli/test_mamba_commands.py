"""Mamba-2 layers on the command line: listed, tuned from recordings, written, checked, compared."""

import json
from pathlib import Path

import pytest
from helpers import H100, Cli
from mamba_models import NEMOTRON, written
from observed_engine import expand, layer, shrink, steps
from observed_engine import written as observed

from bo_tune.core.outcome import Compilation, Measurement
from bo_tune.core.space import Config
from bo_tune.engines.folder import read_provenance
from bo_tune.formats.recording import Recording, recording_file_name, write_recording
from bo_tune.kernels.mamba.step import KERNEL, MambaStep
from bo_tune.kernels.registry import kernel_spec

SPEC = kernel_spec(KERNEL)
NAME = f"headdim=64,dstate=128,device_name={H100.file_name},cache_dtype=float32.json"
COUNTS = (1, 256)
LOOKED_UP = MambaStep(16, 64, 64, 128)
"""As told by what an engine looked up, which holds no groups."""


def step_of(sequences: int) -> MambaStep:
    return MambaStep(sequences, 64, 64, 128, 8)


def best_at(sequences: int) -> Config:
    return {"BLOCK_SIZE_M": 16 if sequences < 64 else 64, "num_warps": 1 if sequences < 64 else 8}


def time_us(config: Config, sequences: int) -> float:
    far = sum(abs(config[name] - value) / value for name, value in best_at(sequences).items())
    return 100.0 + 40.0 * far


def launched(told: Path) -> list[int]:
    """How many configs each study of a session launched."""
    return [study["costs"]["launched_configs"] for study in json.loads(told.read_text())["studies"]]


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings of two numbers of sequences."""
    folder = tmp_path_factory.mktemp("grids")
    for step in (*map(step_of, COUNTS), LOOKED_UP):
        problem, sequences = step.problem, step.sequences
        path = folder / recording_file_name(H100, problem)
        outcomes = [
            (config, Measurement((time_us(config, sequences),) * 10, compilation=Compilation(1.0)))
            for config in SPEC.search_space
            if SPEC.allows(config, problem)
        ]
        default = time_us(SPEC.default_config(problem), sequences)
        recording = Recording.of(
            path, problem, H100, outcomes, kernel_source="vllm 0.33.0", space=SPEC.search_space, default_time_us=default
        )
        write_recording(path, recording)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> tuple[object, ...]:
    """The options of a served model."""
    folder = written(tmp_path / "model", NEMOTRON).parent
    return ("--model", folder, "--max-loras", 4, "--rank", 16, "--m", ",".join(map(str, COUNTS)))


def test_they_are_measured_whole_and_written_as_the_engine_reads_them(
    cli: Cli, grids: Path, model: tuple[object, ...], tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    done = cli(
        "tune", *model, "--only", "mamba", "--device", f"replay:{grids}", "--out", tmp_path / "tuned", "--json", told
    )
    assert done.code == 0, done.err
    file = json.loads((tmp_path / "tuned" / NAME).read_text())
    assert file == {str(64 * count): dict(best_at(count)) for count in COUNTS}
    assert "m64 w8" in done.out
    allowed = sum(SPEC.allows(config, step_of(1).problem) for config in SPEC.search_space)
    assert launched(told) == [allowed] * len(COUNTS)
    origin = read_provenance(tmp_path / "tuned" / NAME)["16384",]
    assert (origin.problem, origin.kernel_source) == (step_of(256).problem, "vllm 0.33.0")
    report = tmp_path / "checked.json"
    cli("check", tmp_path / "tuned", *model, "--gpu", H100.name, "--json", report, "--quiet")
    lookups = [one for one in json.loads(report.read_text())["lookups"] if one["kernel"] == KERNEL]
    assert [(one["asked"]["m"], one["status"]) for one in lookups] == [(64, "exact"), (16384, "exact")]


def test_a_budget_that_is_named_counts(cli: Cli, grids: Path, model: tuple[object, ...], tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    where = ("--device", f"replay:{grids}", "--out", tmp_path / "tuned")
    assert cli("tune", *model, "--only", "mamba", *where, "--budget", 4, "--json", told).code == 0
    assert launched(told) == [4] * len(COUNTS)


def test_grids_recordings_and_comparisons_work_as_for_adapters(cli: Cli, grids: Path, tmp_path: Path) -> None:
    where = ("--device", f"replay:{grids}")
    assert cli("grid", *where, "--out", tmp_path / "grid", "--record", tmp_path / "again").code == 0
    assert len(list((tmp_path / "again").iterdir())) == len(COUNTS) + 1
    assert cli("tune", *where, "--out", tmp_path / "tuned").code == 0
    compared = tmp_path / "compared.json"
    done = cli("compare", tmp_path / "tuned", tmp_path / "grid", "--recordings", grids, "--json", compared, "--quiet")
    assert done.code == 0, done.err
    document = json.loads(compared.read_text())
    assert document["common_entries"] == len(COUNTS) + 1
    assert document["max_regret_percent"] <= 1.0
    simulated = cli("simulate", "--recordings", grids, "--sampler", "grid-gp", "--seeds", 1, "--budget", 10)
    assert simulated.code == 0, simulated.err


def test_they_are_listed_where_they_are_asked_for(cli: Cli, model: tuple[object, ...]) -> None:
    listed = cli("problems", *model, "--only", "mamba")
    assert "64 heads, headdim 64, dstate 128, float32 states" in listed.out
    assert "1, 256" in listed.out
    assert "2 studies" in listed.out
    halved = cli("problems", *model, "--only", "mamba", "--mamba-ssm-cache-dtype", "float16")
    assert "dstate 128, float16 states" in halved.out
    both = json.loads(cli("problems", *model, "--only", "lora,mamba", "--json", "-", "--quiet").out)["problems"]
    assert {one["kernel"] for one in both} == {KERNEL, "lora_shrink", "lora_expand"}
    adapters = json.loads(cli("problems", *model, "--only", "lora", "--json", "-", "--quiet").out)["problems"]
    assert KERNEL not in {one["kernel"] for one in adapters}
    everything = json.loads(cli("problems", *model, "--json", "-", "--quiet").out)["problems"]
    assert {one["kernel"] for one in everything} == {one["kernel"] for one in both}


def test_a_study_file_may_name_them(cli: Cli, model: tuple[object, ...], tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        f'kernels = ["{KERNEL}"]\n[model]\nconfig = "{model[1]}"\ntensor_parallel = 2\nmax_loras = [4]\nm = [16]\n'
    )
    assert "32 heads, headdim 64" in cli("problems", study).out


def test_what_an_engine_looked_up_is_tuned(cli: Cli, grids: Path, tmp_path: Path) -> None:
    path = tmp_path / "lookups.jsonl"
    asked = {"headdim": 64, "dstate": 128, "nheads": 64, "cache_dtype": "float32", "is_blackwell": False, "batch": 16}
    adapters = layer("model.layers.*.self_attn.o_proj", [[4, 1, 16, 4096]], [[4, 1, 4096, 16]])
    seen = [adapters, shrink(16), expand(16, 4096), {"lookup": "mamba", "arguments": asked, "count": 3}]
    observed(path, *seen, steps(16, 16, 16, 4, count=100), gpu=H100.name)
    listed = cli("problems", "--lookups", path, "--only", "mamba")
    assert "64 heads, headdim 64, dstate 128, float32 states" in listed.out
    assert "--only mamba" in cli("problems", "--lookups", path).out
    done = cli("tune", "--lookups", path, "--only", "mamba", "--device", f"replay:{grids}", "--out", tmp_path / "tuned")
    assert (done.code, done.err) == (0, "")
    assert json.loads((tmp_path / "tuned" / NAME).read_text()) == {"1024": dict(best_at(16))}
    refused = cli("problems", "--lookups", path, "--only", "experts")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--only experts does not work with --lookups" in refused.err
