"""``bo-tune compare``, ``simulate`` and ``show`` as programs call them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import EXPAND, SHRINK, SHRINK_BIG, Cli, sliced, sqlite_url, stored_trials, write_all

from bo_tune.display.console import short_config
from bo_tune.measure.devices import replay_jobs
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

RUN_FIELDS = {
    "recording", "sampler", "seed", "launched_configs", "launches", "invalid_proposed", "sampler_ms_per_trial",
    "found_percent", "certificate", "regret_percent",
}  # fmt: skip


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("recordings"), sliced(SHRINK), sliced(EXPAND))


def strict(path: Path) -> Any:
    """Read JSON that any program can read: no NaN, no infinity."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))


def test_compare(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    common = ("--device", f"replay:{recordings}", "--storage", "memory")
    assert cli("tune", *common, "--budget", 6, "--sampler", "random", "--out", tmp_path / "tuned").code == 0
    assert cli("grid", *common, "--out", tmp_path / "grid").code == 0
    report = tmp_path / "new" / "report.json"
    ran = cli("compare", tmp_path / "tuned", tmp_path / "grid", "--recordings", recordings, "--json", report)
    assert (ran.code, ran.err) == (0, "")
    document = strict(report)
    totals = document["totals"]
    assert totals["tuned"]["launched_configs"] == 12
    for figure in ("launched_configs", "launches", "compiles"):
        assert totals["grid_over_tuned"][figure] == totals["grid"][figure] / totals["tuned"][figure]
        assert f"{totals['grid'][figure]:,.0f} " in ran.out
        assert f"{totals['grid_over_tuned'][figure]:.1f}x" in ran.out
    assert {"wall_s"} <= set(totals["tuned"])
    for entry in document["entries"]:
        assert f"{entry['tuned_us']:.2f}" in ran.out
        assert f"{entry['regret_percent']:.2f} %" in ran.out
        assert "/".join(entry["keys"]) in ran.out
    assert document["max_regret_percent"] >= document["mean_regret_percent"] >= 0


def test_nothing_in_common_is_exit_code_1_and_a_line(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    common = ("--device", f"replay:{recordings}", "--storage", "memory", "--budget", 4, "--sampler", "random")
    for kernel in ("lora_shrink", "lora_expand"):
        assert cli("tune", *common, "--kernel", kernel, "--out", tmp_path / kernel).code == 0
    report = tmp_path / "x.json"
    ran = cli("compare", tmp_path / "lora_shrink", tmp_path / "lora_expand", "--json", report)
    assert ran.code == 1
    assert "have no entry in common, so there is nothing to compare" in " ".join(ran.out.split())
    assert strict(report)["common_entries"] == 0


def test_compare_without_recordings_or_json(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    common = ("--device", f"replay:{recordings}", "--storage", "memory", "--budget", 4, "--sampler", "random")
    assert cli("tune", *common, "--out", tmp_path / "tuned").code == 0
    ran = cli("compare", tmp_path / "tuned", tmp_path / "tuned")
    assert ran.code == 0
    assert "0.00 %" in ran.out
    assert "tuned time over the other's: mean 0.00 %, worst 0.00 % of 2 entries" in ran.out


@pytest.mark.parametrize(("budget", "checkpoints"), [(5, []), (12, ["10"]), (40, ["10", "20", "40"])])
def test_simulate(cli: Cli, tmp_path: Path, recordings: Path, budget: int, checkpoints: list[str]) -> None:
    report = tmp_path / "runs.json"
    options = ("--sampler", "random", "--budget", budget, "--seeds", 2, "--json", report)
    ran = cli("simulate", "--recordings", recordings, *options)
    assert (ran.code, ran.err) == (0, "")
    document = strict(report)
    assert set(document) == {"command", "version", "runs", "summary"}
    runs = document["runs"]
    assert all(set(run) == RUN_FIELDS for run in runs)
    names = {path.name for path in recordings.iterdir()}
    assert {(run["recording"], run["seed"]) for run in runs} == {(name, seed) for name in names for seed in (0, 1)}
    for run in runs:
        assert run["launched_configs"] == budget
        assert set(run["regret_percent"]) == {*checkpoints, "final"}
        assert min(run["regret_percent"].values()) >= 0
        assert isinstance(run["launches"], int)
        assert isinstance(run["invalid_proposed"], int)
    summary = document["summary"]
    finals = [run["regret_percent"]["final"] for run in runs]
    assert summary["final"]["mean_regret_percent"] == pytest.approx(sum(finals) / 4)
    assert f"{summary['final']['mean_regret_percent']:.2f} %" in ran.out


@pytest.mark.slow
def test_simulate_learns_from_a_history_that_it_does_not_report(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    history = write_all(tmp_path / "history", sliced(SHRINK_BIG), sliced(SHRINK, m=64))
    report = tmp_path / "runs.json"
    options = ("--sampler", "grid-gp", "--budget", 10, "--json", report)
    assert cli("simulate", "--recordings", recordings, "--history", history, *options).code == 0
    taught = strict(report)["runs"]
    assert {run["recording"] for run in taught} == {path.name for path in recordings.iterdir()}
    assert cli("simulate", "--recordings", recordings, *options).code == 0
    assert [without_time(run) for run in strict(report)["runs"]] != [without_time(run) for run in taught]


def without_time(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "sampler_ms_per_trial"}


def test_simulate_the_whole_grid(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    report = tmp_path / "runs.json"
    assert cli("simulate", "--recordings", recordings, "--sampler", "grid", "--json", report).code == 0
    assert all(run["launched_configs"] > 40 for run in strict(report)["runs"])


def test_show(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    database, report = tmp_path / "x.db", tmp_path / "studies.json"
    common = ("--device", f"replay:{recordings}", "--storage", sqlite_url(database), "--out", tmp_path / "out")
    assert cli("tune", *common, "--sampler", "random", "--budget", 20).code == 0
    ran = cli("show", "--storage", sqlite_url(database), "--json", report)
    assert (ran.code, ran.err) == (0, "")
    stored = stored_trials(database)
    studies = {study["study"]: study for study in strict(report)["studies"]}
    assert set(studies) == set(stored)
    every_reason: Counter[str] = Counter()
    for name, study in studies.items():
        reasons = Counter(t.user_attrs["reason"] for t in stored[name] if "reason" in t.user_attrs)
        every_reason += reasons
        assert study["states"] == Counter(t.state.name for t in stored[name])
        assert study["reasons"] == reasons
        for time_us in (study["best_us"], study["default_us"]):
            assert f"{time_us:.2f}" in ran.out
    assert every_reason
    assert "trials pruned: " in ran.out
    assert all(f"{reason} {count}" in ran.out for reason, count in every_reason.items())


def test_show_of_an_empty_database(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    ran = cli("show", "--storage", "memory")
    assert ran.code == 0
    assert ran.out.startswith("0 studies")


def test_show_of_some_studies_and_of_one(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    database, url = tmp_path / "x.db", sqlite_url(tmp_path / "x.db")
    common = ("--device", f"replay:{recordings}", "--storage", url, "--out", tmp_path / "out")
    assert cli("tune", *common, "--sampler", "random", "--budget", 30).code == 0
    both = cli("show", "lora", "--storage", url)
    assert "\n2 studies, 0 unfinished" in both.out
    one = cli("show", "SHRINK", "m16.", "--storage", url, "--json", tmp_path / "one.json")
    assert (one.code, one.err) == (0, "")
    (study,) = strict(tmp_path / "one.json")["studies"]
    assert study["kernel"] == "lora_shrink"
    trials = stored_trials(database)[study["study"]]
    assert len(study["trials"]) == len(trials)
    assert study["study"] in one.out
    assert f"chosen: {short_config(study['config'])}: {study['best_us']:.2f} us" in one.out
    for config, time_us in study["result"]["finalists"]:
        assert f"{short_config(config)}" in one.out
        assert f"{time_us:.2f}" in one.out
    assert "(default)" in one.out
    fastest = sorted((t for t in study["trials"] if t["time_us"] is not None), key=lambda t: t["time_us"])
    assert f"{fastest[0]['time_us']:.2f}" in one.out
    for reason, count in study["reasons"].items():
        said = sum(
            int(line.split()[1]) for line in one.out.splitlines() if line.startswith("pruned: ") and reason in line
        )
        assert said == count
    assert "no study with 'm17.' in its name" in cli("show", "m17.", "--storage", url).error


def test_show_of_a_study_that_has_just_begun(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    store = StudyStore(sqlite_url(tmp_path / "x.db"))
    session = Session(store, SessionSettings(sampler="random", budget=4))
    jobs = replay_jobs(recordings, kernels=["lora_expand"])
    session.register(jobs)
    ran = cli("show", "lora_expand", "--storage", sqlite_url(tmp_path / "x.db"))
    assert (ran.code, ran.err) == (0, "")
    assert "best so far: -: - us" in ran.out
    session.opener.open(jobs[0]).search(2)
    assert "2 trials: 2 configs launched" in cli("show", "lora_expand", "--storage", sqlite_url(tmp_path / "x.db")).out
    store.close()
