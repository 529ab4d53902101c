"""The commands on recordings of the fused MoE kernels, which must agree on block_m."""

from pathlib import Path

import pytest
from helpers import ROOT, Cli, write_all
from moe_recordings import GPU_FILES, MOE, MOE_KERNELS, best_sum_us, small
from one_launch_recordings import one_launch

from bo_tune.analysis.compare import compare
from bo_tune.engines.folder import read_provenance, read_table
from bo_tune.formats.recording import read_recordings

pytestmark = pytest.mark.slow


def test_what_is_written_agrees_and_is_compared_by_the_sum(cli: Cli, tmp_path: Path) -> None:
    recordings = [*small(16), *small(2048)]
    folder = write_all(tmp_path / "recorded", *recordings)
    for command, out in (("tune", "tuned"), ("grid", "grid")):
        ran = cli(command, "--device", f"replay:{folder}", "--storage", "memory", "--out", tmp_path / out)
        assert ran.code == 0, ran.err
        assert "kernels that agree on block_m: their sum is" in ran.out
        tables = [read_table(tmp_path / out / name).configs for name in GPU_FILES]
        for m in ("16", "2048"):
            found = [config["block_m"] for table in tables for keys, config in table.items() if keys[2] == m]
            assert len(found) == 4
            assert len(set(found)) == 1
        assert all(len(keys) == 6 for table in tables for keys in table)
        origins = [read_provenance(tmp_path / out / name) for name in GPU_FILES]
        for keys in origins[2]:
            (joint, *others) = [origin.joint for table in origins for at, origin in table.items() if at[2] == keys[2]]
            assert joint is not None
            assert others == [joint] * 3
            assert joint["time_us"] <= joint["default_time_us"]
    compared = compare(tmp_path / "tuned", tmp_path / "grid", recordings)
    assert len(compared.regrets) == 2
    assert min(compared.regrets) >= 0
    sums = [entry for entry in compared.entries if entry.counted_in is None]
    assert [entry.best_us for entry in sums] == [pytest.approx(best_sum_us(small(m))) for m in (16, 2048)]


def test_a_recorded_grid_is_recorded_again(cli: Cli, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "recorded", *small(16))
    again = tmp_path / "again"
    ran = cli("grid", "--device", f"replay:{folder}", "--storage", "memory", "--out", tmp_path / "o", "--record", again)
    assert ran.code == 0, ran.err
    for before, after in zip(read_recordings(folder), read_recordings(again), strict=True):
        assert after.problem == before.problem
        assert after.space == before.space
        assert after.default_time_us is not None
        for name in ("gemm_n", "gemm_k", "num_experts", "top_k", "routing"):
            assert after.metadata["shape"][name] == before.metadata["shape"][name]


def test_every_recording_is_simulated_with_its_kin(cli: Cli, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "recorded", *small(16), *small(256))
    ran = cli("simulate", "--recordings", folder, "--budget", 10)
    assert ran.code == 0, ran.err
    assert "mean over 2 runs" in ran.out


STUDY = ROOT / "studies" / "moe-further.toml"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("x", "not JSON"),
        ("{}", "expected a list with the number of hits of each expert"),
        ("[]", "expected a list with the number of hits of each expert"),
        ("[1, -2]", "expected a list with the number of hits of each expert"),
        ("[1, 2, 3]", "expected one count for each of 128 experts, got 3 numbers"),
    ],
)
def test_hits_of_experts_are_checked_before_anything_is_measured(
    cli: Cli, tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "hits.json"
    if content is not None:
        file.write_text(content)
    error = cli("tune", STUDY, "--experts", file, "--out", tmp_path / "out").error
    assert error.startswith("--experts: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_experts_of_a_model_are_tuned_unless_kernels_are_named(cli: Cli, tmp_path: Path) -> None:
    """From the recordings, which lack the model's dense problems."""
    model = ("--model", ROOT / "studies" / "models" / "qwen3-30b-a3b", "--max-loras", 4, "--rank", 16, "--m", "16,256")
    place = ("--device", f"replay:{MOE}", "--storage", "memory", "--budget", 6, "--out", tmp_path)
    assert "have no recording" in cli("tune", *model, *place).error
    ran = cli("tune", *model, *place, *(word for kernel in MOE_KERNELS for word in ("--kernel", kernel)))
    assert ran.code == 0, ran.err
    assert {path.name for path in tmp_path.glob("*T.json")} | {*GPU_FILES} == {*GPU_FILES}


def test_expert_parallelism_and_fully_sharded_adapters_exclude_each_other(cli: Cli) -> None:
    model = ("--model", ROOT / "studies" / "models" / "mixtral-8x7b", "--max-loras", 4, "--rank", 16, "--tp", 2)
    assert "enable-expert-parallel" in cli("tune", *model, "--expert-parallel", "--fully-sharded").error


def test_one_kernel_of_four_may_be_tuned_alone(cli: Cli, tmp_path: Path) -> None:
    place = f"replay:{MOE}"
    only = MOE_KERNELS[0]
    ran = cli("tune", "--device", place, "--storage", "memory", "--out", tmp_path, "--kernel", only, "--budget", 5)
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in tmp_path.glob("*HBM3_FUSED*_SHRINK.json")) == [GPU_FILES[0]]


def test_the_launch_that_runs_decides_on_block_m(cli: Cli, tmp_path: Path) -> None:
    times_us = {16: (30.0, 20.0), 32: (29.0, 18.0), 64: (35.0, 22.0), 128: (60.0, 40.0)}
    folder = write_all(tmp_path / "recorded", *small(16), *one_launch(16, times_us))
    place = ("--device", f"replay:{folder}", "--storage", f"sqlite:///{tmp_path}/studies.db", "--budget", 6)
    for path in ("auto", "two-kernels", "one-launch"):
        ran = cli("tune", *place, "--moe-path", path, "--out", tmp_path / path)
        assert ran.code == 0, ran.err
        assert ("1 problems take their block_m from" in ran.out) == (path != "two-kernels")
        assert "4 problems on" in ran.out
        for name in GPU_FILES:
            (config,) = read_table(tmp_path / path / name).configs.values()
            assert config["block_m"] == 32 or path == "two-kernels"
            (origin,) = read_provenance(tmp_path / path / name).values()
            assert origin.joint is not None
            assert ("decided_by" in origin.joint) == (path != "two-kernels")
    assert {path.name for path in (tmp_path / "auto").glob("NVIDIA*_[SE]*[KD].json")} == set(GPU_FILES)
    shown = cli("show", "--storage", f"sqlite:///{tmp_path}/studies.db").out
    assert "fused_moe_lora_w13 on NVIDIA H100 80GB HBM3 (vllm 0.33.0 (one-launch path), " in shown
    assert "fused_moe_lora_w2: an engine launches it in place of shrink and expand, and it decides on block_m" in shown


def test_a_grid_is_recorded_whole_with_who_decides_and_compared_under_what_was_decided(
    cli: Cli, tmp_path: Path
) -> None:
    times_us = {16: (30.0, 20.0), 32: (29.0, 18.0), 64: (35.0, 22.0), 128: (60.0, 40.0)}
    recordings = [*small(16), *one_launch(16, times_us)]
    folder = write_all(tmp_path / "recorded", *recordings)
    place = ("--device", f"replay:{folder}", "--storage", "memory")
    assert cli("grid", *place, "--out", tmp_path / "grid", "--record", tmp_path / "again").code == 0
    again = {recording.problem: recording for recording in read_recordings(tmp_path / "again")}
    assert {problem: recording.space for problem, recording in again.items()} == {
        r.problem: r.space for r in recordings
    }
    assert cli("tune", *place, "--out", tmp_path / "tuned", "--budget", 8).code == 0
    compared = compare(tmp_path / "tuned", tmp_path / "grid", again.values())
    (total,) = [entry for entry in compared.entries if entry.counted_in is None]
    under = [min(e.time_us for k, e in r.entries.items() if dict(k)["block_m"] == 32) for r in small(16)]
    assert total.best_us == pytest.approx(sum(under), rel=0.05)
    assert total.tuned == {"block_m": 32}


def test_the_path_in_one_launch_is_refused_where_it_is_not_recorded(cli: Cli, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "recorded", *small(16))
    error = cli("tune", "--device", f"replay:{folder}", "--storage", "memory", "--moe-path", "one-launch").error
    assert error.startswith("--moe-path one-launch: there is no recording of that path")
