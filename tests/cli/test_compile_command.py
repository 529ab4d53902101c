"""``bo-tune compile`` and ``tune --pack``, really compiling for sm_90 on a machine without a GPU."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import forked
import pytest
from helpers import SHRINK, Cli, command, sliced, sqlite_url, write_all

from bo_tune.cli.packing import experience
from bo_tune.formats.pack.archive import read_manifest, unpack, write_pack
from bo_tune.measure.gpu import device as cuda
from bo_tune.tuning.bundled import bundled_grids

pytestmark = pytest.mark.slow

STUDY = """
name = "small"

[[problem]]
kernel = "lora_shrink"
max_loras = 4
num_slices = 1
m = [16, 512]
k = 4096
n = 16

[space.lora_shrink]
block_m = [16]
block_n = [32]
block_k = [32]
num_warps = [4]
num_stages = [2, 3, 4]
split_k = [4, 8]
"""
BINARIES = 8
"""Six configs that both problems share, and a default one of each."""

COMMON = ("--kernels", "builtin", "--jobs", 1)
LONG_S = 120.0


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Triton's cache, in a folder of the test."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file, and a recording beside it that is learnt from."""
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    write_all(tmp_path, sliced(SHRINK))
    return path


def compile_all(cli: Cli, study: Path, pack: Path, *more: object) -> str:
    ran = cli("compile", study, *COMMON, "--history", study.parent, "--out", pack, *(more or ("--all",)))
    assert ran.code == 0, (ran.out, ran.err)
    return ran.out


def started(study: Path, pack: Path) -> subprocess.Popen[str]:
    """Start compiling everything, in a process of its own."""
    arguments = ("compile", study, *COMMON, "--history", study.parent, "--all", "--out", pack)
    return forked.Popen(command(*arguments), stdout=subprocess.PIPE, text=True, cwd=study.parent)


def wait_for_binaries(pack: Path, count: int) -> None:
    journal = pack.with_name(f".{pack.name}.work") / "journal.jsonl"
    deadline = time.monotonic() + LONG_S
    while not journal.exists() or journal.read_bytes().count(b"\n") <= count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_of_a_small_space_is_packed_with_its_resources(cli: Cli, study: Path, tmp_path: Path) -> None:
    pack, figures = tmp_path / "x.pack", tmp_path / "x.json"
    out = compile_all(cli, study, pack, "--all", "--json", figures)
    assert f"{BINARIES} binaries, and 0 that cannot be built; {BINARIES} compiled in" in out
    assert f"wrote {pack}" in out
    manifest = read_manifest(pack)
    assert (manifest.study, manifest.identity.target) == ("small", "cuda:90")
    assert manifest.gpu.name == "NVIDIA H100 80GB HBM3"
    assert len(manifest.binaries) == BINARIES
    for binary in manifest.binaries:
        assert binary.compile_s > 0
        assert binary.cubin_bytes > 0
        assert binary.resources.registers_per_thread
        assert binary.resources.shared_memory_bytes
        assert binary.resources.spilled_registers == 0
    assert json.loads(figures.read_text())["binaries"] == BINARIES
    assert not (tmp_path / "triton").exists()
    assert not (tmp_path / ".x.pack.work").exists()


def test_a_larger_budget_goes_on_from_the_pack(cli: Cli, study: Path, tmp_path: Path) -> None:
    pack = tmp_path / "x.pack"
    assert "3 binaries, and 0 that cannot be built; 3 compiled in" in compile_all(cli, study, pack, "--configs", 3)
    before = read_manifest(pack).binaries
    assert "5 binaries, and 0 that cannot be built; 2 compiled in" in compile_all(cli, study, pack, "--configs", 5)
    assert read_manifest(pack).binaries[:3] == before
    assert "5 binaries, and 0 that cannot be built; 0 compiled in" in compile_all(cli, study, pack, "--minutes", 0)


def test_a_killed_compile_goes_on(cli: Cli, study: Path, tmp_path: Path) -> None:
    pack = tmp_path / "x.pack"
    process = started(study, pack)
    wait_for_binaries(pack, 2)
    process.kill()
    process.communicate(timeout=LONG_S)
    assert not pack.exists()
    out = compile_all(cli, study, pack)
    compiled = int(out.split(" compiled in")[0].split()[-1])
    assert compiled <= BINARIES - 2
    assert len({b.entry for b in read_manifest(pack).binaries}) == BINARIES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_compile_leaves_a_pack(cli: Cli, study: Path, tmp_path: Path, number: signal.Signals) -> None:
    pack = tmp_path / "x.pack"
    process = started(study, pack)
    wait_for_binaries(pack, 2)
    process.send_signal(number)
    out, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == 130
    assert "interrupted: the pack keeps what was compiled; to resume:\n  bo-tune compile " in out
    before = len(read_manifest(pack).binaries)
    assert 2 <= before <= BINARIES
    assert f"{BINARIES - before} compiled in" in compile_all(cli, study, pack)


def test_an_earlier_study_is_learnt_from(cli: Cli, study: Path, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "none.db")
    assert "none.db" in cli("compile", study, "--all", "--storage", url, "--out", tmp_path / "x.pack").error
    assert not (tmp_path / "none.db").exists()
    assert "nowhere" in cli("compile", study, "--all", "--history", "nowhere", "--out", tmp_path / "x.pack").error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "how much should be compiled"),
        (("--all", "--target", "cuda"), "--target: expected cuda:CC"),
        (("--all", "--target", "rocm:90"), "--target: expected cuda:CC"),
        (("--all", "--target", "cuda:9"), "--target: expected cuda:CC"),
        (("--all", "--target", "cuda:90a"), "--target: expected cuda:CC"),
        (("--all", "--gpu", "NVIDIA L4"), "--gpu: NVIDIA L4 does not have the compute capability of --target cuda:90"),
        (("--all", "--kernel", "lora_expand"), "--kernel: this study has no problem of lora_expand"),
        (("--all", "--kernel", "lora"), "unknown kernel 'lora'"),
        (("--all", "--out", "nowhere/x.pack"), "the folder nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, study: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in cli("compile", study, *arguments).error


@pytest.mark.parametrize(
    ("options", "gpu", "target", "assumed"),
    [
        (("--target", "cuda:120"), "NVIDIA GeForce RTX 5090", "cuda:120", []),
        (("--gpu", "NVIDIA H20-3e"), "NVIDIA H20-3e", "cuda:90", []),
        (
            ("--gpu", "NVIDIA X"),
            "NVIDIA X",
            "cuda:90",
            ["bo_tune does not know NVIDIA X: it assumes 132 multiprocessors"],
        ),
        (
            ("--target", "cuda:110"),
            "GPU of cuda:110",
            "cuda:110",
            ["bo_tune does not know GPU of cuda:110", "bo_tune does not know the shared memory of cuda:110"],
        ),
    ],
)
def test_any_target_that_triton_compiles_for(
    cli: Cli, study: Path, tmp_path: Path, options: tuple[str, ...], gpu: str, target: str, assumed: list[str]
) -> None:
    pack = tmp_path / "x.pack"
    out = compile_all(cli, study, pack, "--configs", 1, *options)
    manifest = read_manifest(pack)
    assert (manifest.gpu.name, manifest.identity.target) == (gpu, target)
    assert [binary.reason for binary in manifest.binaries] == [None]
    assert out.count("note: ") == len(assumed)
    assert all(f"note: {line}" in out for line in assumed)


def test_a_target_that_nothing_compiles_for_is_said(cli: Cli, study: Path, tmp_path: Path) -> None:
    ran = cli(
        "compile", study, *COMMON, "--history", study.parent, "--configs", 1, "--target", "cuda:10", "--out",
        tmp_path / "x.pack",
    )  # fmt: skip
    assert ran.code == 1
    assert "no config could be compiled; the first failed with compile_error" in ran.out.replace(
        "compile error", "compile_error"
    )


def test_without_a_study_there_is_nothing_to_compile(cli: Cli) -> None:
    assert "nothing to compile" in cli("compile", "--all").error


@pytest.fixture
def _fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU process is ``measure/fake_gpu``."""
    place = Path(__file__).parents[1] / "measure"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(place)  # what children are given
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_gpu")


def tune(study: Path, *packs: Path, name: str = "tune") -> tuple[object, ...]:
    named = [word for pack in packs for word in ("--pack", pack)]
    figures = study.with_name("figures.json")
    budget = ("--budget", 9) if name == "tune" else ()
    common = ("--kernels", "builtin", "--jobs", 1, "--storage", "memory", "--json", figures)
    return name, study, *common, *budget, *named


@pytest.mark.usefixtures("_fake_gpu")
@pytest.mark.parametrize("name", ["tune", "grid"])
def test_a_session_with_a_pack_compiles_nothing_that_is_in_it(
    cli: Cli, study: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda.Deadlines, "__init__", _impatient(cuda.Deadlines.__init__))
    pack = tmp_path / "x.pack"
    compile_all(cli, study, pack)
    study.write_text(STUDY.replace("split_k = [4, 8]", "split_k = [4, 8, 16]"))
    ran = cli(*tune(study, pack, name=name))
    assert ran.code == 0, (ran.out, ran.err)
    farm = json.loads((tmp_path / "figures.json").read_text())["session"]["devices"]["NVIDIA Fake 1"]["farm"]
    assert farm["packed"] == BINARIES
    assert farm["packed_s"] > 0
    assert farm["compiles"] <= 3
    assert f"packs: {BINARIES} compiles avoided" in ran.out


def _impatient(made):  # type: ignore[no-untyped-def]
    """Give up soon on the default config, on which the fake GPU hangs."""

    def init(self, *arguments, **named):  # type: ignore[no-untyped-def]
        made(self, *arguments, **{"first_s": 0.3, "measure_s": 0.3, **named})

    return init


@pytest.mark.usefixtures("_fake_gpu")
def test_a_pack_that_does_not_fit_stops_the_session(cli: Cli, study: Path, tmp_path: Path) -> None:
    pack, other = tmp_path / "x.pack", tmp_path / "other.pack"
    compile_all(cli, study, pack, "--configs", 1)
    manifest = read_manifest(pack)
    text = manifest.identity.kernels["lora_shrink"]
    changed = {"lora_shrink": replace(text, source="bo_tune 0")}
    compiled = tmp_path / "cache"
    compiled.mkdir()
    unpack(pack, compiled)
    write_pack(other, replace(manifest, identity=replace(manifest.identity, kernels=changed)), compiled)
    error = cli(*tune(study, pack, other)).error
    assert error.startswith(f"{other}: this pack holds lora_shrink of bo_tune 0, but this host has bo_tune ")
    assert "nothing.pack: No such file" in cli(*tune(study, tmp_path / "nothing.pack")).error


def test_recordings_need_no_pack(cli: Cli, tmp_path: Path) -> None:
    assert "--pack needs a GPU" in cli("tune", "--device", "replay:x", "--pack", tmp_path / "x.pack").error


def test_the_bundled_grids_teach_unless_others_are_named(study: Path) -> None:
    assert len(experience(None, None)) == len(bundled_grids())
    assert len(experience(None, [study.parent])) == 1
