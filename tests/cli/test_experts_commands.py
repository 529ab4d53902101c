"""The base model's experts on the command line: listed, tuned from recordings, written, checked, compared."""

import json
from pathlib import Path

import pytest
from helpers import H100, ROOT, Cli

from bo_tune.core.outcome import Compilation, Measurement
from bo_tune.core.problem import Experts
from bo_tune.core.space import Config
from bo_tune.engines.folder import read_provenance
from bo_tune.formats.recording import Recording, read_recordings, recording_file_name, write_recording
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.kernels.registry import kernel_spec

NAME = f"E=128,N=768,device_name={H100.file_name}.json"
MODEL = ("--model", ROOT / "studies" / "models" / "qwen3-30b-a3b", "--max-loras", 4, "--rank", 16, "--m", "16,1024")
SPACE = kernel_spec(KERNEL).search_space.override({"BLOCK_SIZE_K": (64, 128), "num_stages": (3, 4)})


def step_of(m: int) -> ExpertsStep:
    return ExpertsStep(m, Experts(128, 8), hidden=2048, n=768)


def best_at(m: int) -> Config:
    tile = {"BLOCK_SIZE_M": 16 if m < 64 else 128, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 16}
    return {**tile, "num_warps": 8, "num_stages": 4}


def time_us(config: Config, m: int) -> float:
    far = sum(abs(config[name] - value) / value for name, value in best_at(m).items())
    return 100.0 + 40.0 * far


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings of two numbers of tokens."""
    folder = tmp_path_factory.mktemp("grids")
    for m in (16, 1024):
        problem = step_of(m).problem
        path = folder / recording_file_name(H100, problem)
        outcomes = [
            (config, Measurement((time_us(config, m),) * 10, compilation=Compilation(1.0)))
            for config in SPACE
            if kernel_spec(KERNEL).impossible(config, problem, H100) is None
        ]
        default = kernel_spec(KERNEL).default_config(problem)
        recording = Recording.of(
            path, problem, H100, outcomes, kernel_source="vllm 0.33.0", space=SPACE, default_time_us=time_us(default, m)
        )
        write_recording(path, recording)
    return folder


def test_they_are_tuned_from_recordings_and_written_as_the_engine_reads_them(
    cli: Cli, grids: Path, tmp_path: Path
) -> None:
    done = cli("tune", *MODEL, "--only", "experts", "--device", f"replay:{grids}", "--out", tmp_path / "tuned")
    assert done.code == 0, done.err
    assert "m128 n128 k64 g16 w8 s4" in done.out
    written = json.loads((tmp_path / "tuned" / NAME).read_text())
    assert list(written) == ["16", "1024"]
    for key, config in written.items():
        assert time_us(config, int(key)) <= time_us(best_at(int(key)), int(key)) * 1.02
        assert list(config) == list(SPACE.names)
    origin = read_provenance(tmp_path / "tuned" / NAME)["1024",]
    assert (origin.problem, origin.kernel_source) == (step_of(1024).problem, "vllm 0.33.0")
    assert origin.time_us < (origin.default_time_us or 0)
    report = tmp_path / "checked.json"
    cli("check", tmp_path / "tuned", *MODEL, "--gpu", H100.name, "--json", report, "--quiet")
    lookups = [one for one in json.loads(report.read_text())["lookups"] if one["kernel"] == KERNEL]
    assert [(one["asked"]["m"], one["status"]) for one in lookups] == [(16, "exact"), (1024, "exact")]


def test_the_adapters_of_experts_stay_as_they_are_without_the_folder(cli: Cli, grids: Path, tmp_path: Path) -> None:
    done = cli("tune", *MODEL, "--only", "experts", "--device", f"replay:{grids}", "--out", tmp_path, "--budget", 4)
    assert (
        "the experts' adapters were not tuned: their files hold the configs that an engine without this folder runs"
        in done.out
    )
    assert len(list(tmp_path.glob("*_FUSED_MOE_LORA_*_SHRINK.json"))) == 2


def test_grids_recordings_and_comparisons_work_as_for_adapters(cli: Cli, grids: Path, tmp_path: Path) -> None:
    where = ("--device", f"replay:{grids}")
    assert cli("grid", *where, "--out", tmp_path / "grid", "--record", tmp_path / "again").code == 0
    (first, *_) = read_recordings(tmp_path / "again")
    assert first.problem in (step_of(16).problem, step_of(1024).problem)
    assert cli("tune", *where, "--out", tmp_path / "tuned").code == 0
    compared = tmp_path / "compared.json"
    done = cli("compare", tmp_path / "tuned", tmp_path / "grid", "--recordings", grids, "--json", compared, "--quiet")
    assert done.code == 0, done.err
    document = json.loads(compared.read_text())
    assert document["common_entries"] == 2
    assert document["max_regret_percent"] <= 2.0
    simulated = cli("simulate", "--recordings", grids, "--sampler", "grid-gp", "--seeds", 1, "--budget", 10)
    assert simulated.code == 0, simulated.err


def test_they_are_listed_where_they_are_asked_for(cli: Cli) -> None:
    listed = cli("problems", *MODEL, "--only", "experts")
    assert "E 128, N 768, hidden 2048, top 8" in listed.out
    assert "16, 1024" in listed.out
    assert "2 studies" in listed.out
    shared = cli("problems", *MODEL, "--only", "experts", "--tp", 4, "--expert-parallel")
    assert "E 32 of 128, N 768" in shared.out
    for parts in (("--only", "lora,experts"), ("--only", "lora", "--only", "experts")):
        both = json.loads(cli("problems", *MODEL, *parts, "--json", "-", "--quiet").out)["problems"]
        assert {one["kernel"] for one in both} > {KERNEL, "lora_shrink", "fused_moe_lora_w13_shrink"}


def test_weights_of_fewer_bits_are_listed_as_they_are_held_and_what_is_not_served_is_told(
    cli: Cli, tmp_path: Path
) -> None:
    config = json.loads((ROOT / "studies" / "models" / "qwen3-30b-a3b" / "config.json").read_text())

    def listed(stored: dict[str, object], *more: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))
        done = cli("problems", "--model", tmp_path, *MODEL[2:], "--only", "experts", *more)
        return done.out + done.err

    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False}
    assert "top 8, fp8_w8a8 by 128 x 128" in listed({"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert "top 8, fp8_w8a8" in listed({"quant_method": "fp8"})
    assert "int4_w4a16 by 128 with zero points" in listed(gptq, "--quantization", "moe_wna16")
    assert "nothing to tune: experts of gptq are multiplied by kernels that read no tuned files\n" in listed(gptq)


def kernels_of(cli: Cli, *arguments: object) -> set[str]:
    """The kernels of the problems that a command lists."""
    listed = cli(*arguments, "--json", "-", "--quiet")
    assert listed.code == 0, listed.err
    return {one["kernel"] for one in json.loads(listed.out)["problems"]}


def test_by_default_all_that_an_engine_of_the_model_reads_is_tuned(cli: Cli, tmp_path: Path) -> None:
    assert kernels_of(cli, "problems", *MODEL) > {KERNEL, "lora_shrink", "fused_moe_lora_w13_shrink"}
    assert KERNEL not in kernels_of(cli, "problems", *MODEL, "--only", "lora")
    assert KERNEL not in kernels_of(cli, "tune", *MODEL, "--dry-run", "--kernels", "builtin"), "engines alone have it"
    named = tmp_path / "named.toml"
    model = f'[model]\nconfig = "{ROOT}/studies/models/qwen3-30b-a3b"\ntensor_parallel = 1\nm = [16]\n'
    named.write_text(model)
    assert KERNEL in kernels_of(cli, "problems", named)
    named.write_text(f'kernels = ["lora_shrink"]\n{model}')
    assert kernels_of(cli, "problems", named) == {"lora_shrink"}


def test_recordings_and_grids_are_of_adapters_unless_experts_are_asked_for(cli: Cli, grids: Path) -> None:
    refused = cli("tune", *MODEL, "--device", f"replay:{grids}")
    assert "fused_experts" not in refused.err, "what is not recorded is not asked for"
    assert refused.code == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("problems", *MODEL, "--only", "mambo"), "--only: expected some of lora, experts, mamba, got 'mambo'"),
        (
            ("tune", *MODEL, "--only", "experts", "--streams", "both"),
            "--streams both: the base model's kernels run the same on one stream and on two; leave --streams out",
        ),
        (("problems", "--only", "experts"), "--only needs a model; name one with --model, or in the study file"),
        (
            ("problems", "--model", ROOT / "studies/models/llama-3.1-8b", "--max-loras", 4, "--rank", 16, "--only",
             "experts"),
            "nothing to tune",
        ),
        (
            ("tune", *MODEL, "--only", "experts", "--device", f"replay:{ROOT}/studies/recordings"),
            "2 of the 2 problems have no recording; the first is fused_experts m=16.E=128",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(cli: Cli, arguments: tuple[object, ...], reason: str) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert reason in done.err
    assert done.err.count("\n") == 1


def test_a_study_file_may_name_them(cli: Cli, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    model = ROOT / "studies" / "models" / "qwen3-30b-a3b"
    study.write_text(
        f'kernels = ["{KERNEL}"]\n[model]\nconfig = "{model}"\ntensor_parallel = 2\nmax_loras = [4]\nm = [16]\n'
    )
    assert "E 128, N 384, hidden 2048, top 8" in cli("problems", study).out
    packed = cli("compile", study, "--configs", 1, "--kernels", "builtin", "--out", tmp_path / "x.pack")
    assert packed.code != 0
    assert "bo_tune has no fused_experts of its own" in packed.err
    study.write_text(study.read_text() + f"[space.{KERNEL}]\nBLOCK_SIZE_K = [64]\n")
    assert cli("problems", study).code == 0
    study.write_text(study.read_text().replace("[64]", "[48]"))
    refused = cli("problems", study)
    assert "space.fused_experts.BLOCK_SIZE_K: expected powers of two, got 48" in refused.err


@pytest.mark.usefixtures("charts_are_empty")
def test_workers_reports_exports_and_imports_work_as_for_adapters(cli: Cli, grids: Path, tmp_path: Path) -> None:
    here, there = (f"sqlite:///{tmp_path}/{name}.db" for name in ("here", "there"))
    tuned = cli(
        "tune", *MODEL, "--only", "experts", "--device", f"replay:{grids}", "--workers", 2, "--storage", here,
        "--out", tmp_path / "tuned",
    )  # fmt: skip
    assert tuned.code == 0, tuned.err
    assert "2 studies:" in tuned.out
    shown = cli("show", "--storage", here)
    assert "2 studies, 0 unfinished" in shown.out
    page = tmp_path / "report.html"
    assert cli("report", "--storage", here, "--out", page).code == 0
    assert KERNEL in page.read_text()
    assert cli("export", "--storage", here, "--out", tmp_path / "studies").code == 0
    assert cli("import", tmp_path / "studies", "--storage", there).code == 0
    assert cli("write", "--storage", there, "--out", tmp_path / "again").code == 0
    assert (tmp_path / "again" / NAME).read_bytes() == (tmp_path / "tuned" / NAME).read_bytes()
