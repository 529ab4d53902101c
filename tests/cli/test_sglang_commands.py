"""SGLang's chunked LoRA kernels on the command line: listed, tuned from recordings, written, checked, compared."""

import json
from pathlib import Path

import pytest
from helpers import H100, ROOT, Cli

from bo_tune.core.outcome import Compilation, Measurement
from bo_tune.core.space import Config
from bo_tune.engines.folder import read_provenance
from bo_tune.formats.recording import Recording, recording_file_name, write_recording
from bo_tune.kernels.csgmv.spec import NO_LIMIT
from bo_tune.kernels.csgmv.step import EXPAND, KERNELS, SHRINK, CsgmvStep
from bo_tune.kernels.registry import kernel_spec

MODEL = (
    "--model", ROOT / "studies" / "models" / "llama-3.1-8b", "--max-loras", 4, "--rank", 16, "--m", "16",
    "--engine", "sglang", "--target-modules", "o_proj",
)  # fmt: skip
STEPS = {
    SHRINK: CsgmvStep(SHRINK, 16, 16, 4, 16, 4096, 1),
    EXPAND: CsgmvStep(EXPAND, 16, 16, 4, 16, 0, 1, (4096,)),
}
BEST = {
    SHRINK: {"BLOCK_N": 16, "BLOCK_K": 128, "num_warps": 2, "num_stages": 5},
    EXPAND: {"BLOCK_N": 128, "BLOCK_K": 16, "num_warps": 4, "num_stages": 2, "maxnreg": NO_LIMIT},
}
NAMES = {kernel: f"lora_{kernel[6:]},K=4096,R=16,S=1,device={H100.file_name}.json" for kernel in KERNELS}


def time_us(config: Config, kernel: str) -> float:
    far = sum(abs(config[name] - value) / value for name, value in BEST[kernel].items())
    return 5.0 + 2.0 * far


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings of both kernels of a layer."""
    folder = tmp_path_factory.mktemp("grids")
    for kernel, step in STEPS.items():
        spec, problem = kernel_spec(kernel), step.problem
        path = folder / recording_file_name(H100, problem)
        outcomes = [
            (config, Measurement((time_us(config, kernel),) * 10, compilation=Compilation(1.0)))
            for config in spec.search_space
        ]
        default = time_us(spec.default_config(problem), kernel)
        recording = Recording.of(
            path,
            problem,
            H100,
            outcomes,
            kernel_source="sglang 0.5.23",
            space=spec.search_space,
            default_time_us=default,
        )
        write_recording(path, recording)
    return folder


def test_they_are_tuned_from_recordings_and_written_where_sglang_looks(cli: Cli, grids: Path, tmp_path: Path) -> None:
    done = cli("tune", *MODEL, "--device", f"replay:{grids}", "--out", tmp_path)
    assert done.code == 0, done.err
    assert "n128 k16 w4 s2" in done.out
    assert "SGLANG_LORA_CONFIG_DIR" in done.out
    (place,) = (tmp_path / "csgmv_configs").iterdir()
    assert not list(tmp_path.glob("*.json")), "nothing for vLLM"
    for kernel, name in NAMES.items():
        ((key, config),) = json.loads((place / name).read_text()).items()
        assert key == "16"
        assert time_us({"maxnreg": NO_LIMIT, **config}, kernel) <= 5.0 * 1.02
        origin = read_provenance(place / name)["16",]
        assert (origin.problem, origin.kernel_source) == (STEPS[kernel].problem, "sglang 0.5.23")
    assert "maxnreg" not in json.loads((place / NAMES[EXPAND]).read_text())["16"]
    report = tmp_path / "checked.json"
    for folder in (tmp_path, place):
        checked = cli("check", folder, *MODEL, "--json", report, "--quiet")
        assert checked.code == 0, checked.err
        lookups = [(one["kernel"], one["status"]) for one in json.loads(report.read_text())["lookups"]]
        assert lookups == [(SHRINK, "exact"), (EXPAND, "exact")]


def test_grids_recordings_and_comparisons_work_as_for_vllm(cli: Cli, grids: Path, tmp_path: Path) -> None:
    where = ("--device", f"replay:{grids}")
    assert cli("grid", *where, "--out", tmp_path / "grid", "--record", tmp_path / "again").code == 0
    assert len(list((tmp_path / "again").iterdir())) == len(KERNELS)
    assert cli("tune", *where, "--out", tmp_path / "tuned").code == 0
    folders = [next((tmp_path / name / "csgmv_configs").iterdir()) for name in ("tuned", "grid")]
    compared = tmp_path / "compared.json"
    done = cli("compare", *folders, "--recordings", grids, "--json", compared, "--quiet")
    assert done.code == 0, done.err
    document = json.loads(compared.read_text())
    assert document["common_entries"] == len(KERNELS)
    assert document["max_regret_percent"] <= 2.0
    simulated = cli("simulate", "--recordings", grids, "--sampler", "grid-gp", "--seeds", 1, "--budget", 10)
    assert simulated.code == 0, simulated.err


def test_finished_studies_are_written_where_sglang_looks(cli: Cli, grids: Path, tmp_path: Path) -> None:
    storage = ("--storage", f"sqlite:///{tmp_path}/studies.db")
    assert cli("tune", *MODEL, "--device", f"replay:{grids}", "--out", tmp_path / "one", *storage).code == 0
    assert cli("write", *storage, "--out", tmp_path / "two").code == 0
    for kernel, name in NAMES.items():
        one, two = (next((tmp_path / out / "csgmv_configs").iterdir()) / name for out in ("one", "two"))
        assert one.read_text() == two.read_text(), kernel


def test_they_are_listed(cli: Cli) -> None:
    listed = cli("problems", *MODEL)
    assert "4096, 1 slices, rank 16, chunks of 16" in listed.out
    assert "2 studies serve 2 lookups" in listed.out
    more = cli("problems", *MODEL, "--m", "16,64,512", "--max-lora-chunk-size", 128, "--json", "-", "--quiet")
    assert [one["sizes"]["chunk"] for one in json.loads(more.out)["problems"]] == [16, 16, 32, 32, 128, 128]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("problems", *MODEL, "--only", "experts"), "nothing to tune"),
        (("problems", *MODEL, "--max-lora-chunk-size", 17), "expected one of 16, 32, 64, 128, got 17"),
        (("problems", *MODEL, "--fully-sharded-loras"), "--fully-sharded-loras: SGLang has no such option"),
        (
            ("tune", *MODEL, "--kernels", "builtin"),
            "--kernels builtin: --engine sglang can only tune SGLang's own kernels; leave --kernels out",
        ),
        (
            ("tune", *MODEL[:6], *MODEL[8:], "--m", "auto"),
            "--m auto adds keys only for the kernels of vLLM's adapters; name values of m instead",
        ),
        (("compile", *MODEL, "--configs", 1, "--out", "x.pack"), "packs cannot hold SGLang's kernels"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(cli: Cli, arguments: tuple[object, ...], reason: str) -> None:
    done = cli(*arguments)
    assert done.code == 2, done.out
    assert reason in done.err
    assert done.err.count("\n") == 1
