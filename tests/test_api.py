"""``bo_tune.tune`` and ``bo_tune.grid``: what they take, what they return, and scripts that call them."""

import subprocess
import sys
from dataclasses import replace
from math import log2
from pathlib import Path
from statistics import fmean

import pytest
from helpers import EXPAND, H100, PATIENCE_S, ROOT, SHRINK, FakeDevice, bundled, run_command, sqlite_url, stored_trials

import bo_tune
from bo_tune.analysis.listing import list_studies
from bo_tune.core.choices import GRID, SAMPLERS
from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import Config
from bo_tune.kernels.user.spec import UserSpec
from bo_tune.processes.importing import import_source
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.history import Histories

softmax: bo_tune.Kernel = import_source(str(ROOT / "examples" / "softmax.py")).softmax
split_k: bo_tune.Operation = import_source(str(ROOT / "examples" / "split_k.py")).split_k
SPEC = UserSpec(softmax, frozenset({"rows", "cols"}))
PROBLEMS = [{"rows": 4096, "cols": 1024}, {"rows": 512, "cols": 4096}]
FASTEST = {"ROWS": 2, "BLOCK": 2048, "num_warps": 4, "num_stages": 2}


def by_distance(config: Config) -> float:
    return 10.0 + sum(abs(log2(value / FASTEST[name])) for name, value in config.items())


def device(times: object = by_distance) -> FakeDevice:
    return FakeDevice(times, SPEC.search_space)  # type: ignore[arg-type]


def test_the_best_config_of_each_problem_comes_back_in_the_order_asked() -> None:
    found = bo_tune.tune(softmax, PROBLEMS[::-1], device=device())
    assert [best.problem for best in found] == PROBLEMS[::-1]
    for best in found:
        assert best.config == FASTEST
        assert (best.time_us, best.default_time_us, best.speed_up) == (10.0, 12.0, 1.2)
        assert best.kernel == "softmax_kernel"
        assert best.study.startswith("softmax_kernel | rows=")
        assert best.certificate is not None
        assert best.certificate.tolerance == 0.01
        assert best.compiles == best.launched_configs == best.configs
        assert best.launches > best.configs
        assert best.compile_s == pytest.approx(0.25 * best.compiles)
        assert best.wall_s > 0
    shown = "softmax_kernel rows=512 cols=4096: ROWS=2 BLOCK=2048 num_warps=4 num_stages=2: 10.00 us, 1.20x the default"
    assert str(found[0]).startswith(shown)


def test_an_operation_is_tuned_as_a_kernel_is() -> None:
    fastest = {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128, "SPLIT_K": 8, "num_warps": 4, "num_stages": 3}

    def time_us(config: Config) -> float:
        return 10.0 + sum(abs(log2(value / fastest[name])) for name, value in config.items())

    used = FakeDevice(time_us, UserSpec(split_k, frozenset("MNK")).search_space)
    (best,) = bo_tune.tune(split_k, [{"M": 16, "N": 4096, "K": 512}], device=used)
    assert best.config == {**fastest, "BLOCK_K": 64} or best.config == {**fastest, "SPLIT_K": 4}
    assert best.time_us == 11.0
    assert all(config["SPLIT_K"] * config["BLOCK_K"] <= 512 for config in used.measured)
    with pytest.raises(bo_tune.InputError, match="split_k: expected problems with the sizes M, N, K, got M, N"):
        bo_tune.tune(split_k, [{"M": 16, "N": 4096}], device=used)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != GRID])
def test_every_sampler_serves_within_its_budget(sampler: str) -> None:
    used = device()
    (best,) = bo_tune.tune(softmax, PROBLEMS[:1], device=used, sampler=sampler, budget=12, stop=False, seed=3)
    assert best.launched_configs == 12
    assert all(softmax.valid({}, config) for config in used.measured)  # type: ignore[misc]


def test_the_stop_rule_may_be_another_or_none() -> None:
    def launched(stop: bool | bo_tune.StopRule) -> int:
        (best,) = bo_tune.tune(softmax, PROBLEMS[:1], device=device(), stop=stop)
        return best.launched_configs

    assert launched(bo_tune.StopRule(least=30, risk=0.9)) >= 30
    assert launched(False) == 40
    assert launched(True) < 40


@pytest.mark.slow
def test_a_grid_tries_every_valid_config_and_is_a_study_of_its_own(tmp_path: Path) -> None:
    used, url = device(), sqlite_url(tmp_path / "own.db")
    (best,) = bo_tune.grid(softmax, PROBLEMS[:1], device=used, storage=url)
    assert best.config == FASTEST
    valid = [c for c in SPEC.search_space if softmax.valid({}, c)]  # type: ignore[misc]
    assert {tuple(c.items()) for c in used.measured} == {tuple(c.items()) for c in valid}
    assert best.study.endswith("| grid")
    bo_tune.tune(softmax, PROBLEMS[:1], device=device(), storage=url)
    assert len(stored_trials(tmp_path / "own.db")) == 2


def test_a_recorded_grid_is_tuned_without_a_gpu(tmp_path: Path) -> None:
    folder, url = tmp_path / "recorded", sqlite_url(tmp_path / "own.db")
    whole = bo_tune.grid(softmax, PROBLEMS, device=device(), record=folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "h100.softmax_kernel.rows=4096.cols=1024.t4.json.gz", "h100.softmax_kernel.rows=512.cols=4096.t4.json.gz"
    ]  # fmt: skip
    found = bo_tune.tune(softmax, PROBLEMS[::-1], device=f"replay:{folder}", storage=url)
    assert [best.config for best in found] == [FASTEST, FASTEST]
    assert [best.problem for best in found] == PROBLEMS[::-1]
    assert all(best.launched_configs < every.launched_configs for best, every in zip(found, whole, strict=True))
    with pytest.raises(
        bo_tune.InputError, match="1 of the 1 problems have no recording; the first is softmax_kernel rows=7"
    ):
        bo_tune.tune(softmax, [{"rows": 7, "cols": 1024}], device=f"replay:{folder}")


@pytest.mark.slow
def test_studies_of_users_kernels_travel_as_files(tmp_path: Path) -> None:
    here, there = sqlite_url(tmp_path / "here.db"), sqlite_url(tmp_path / "there.db")
    found = bo_tune.tune(softmax, PROBLEMS, device=device(), storage=here)
    for words in (["export", "--storage", here, "--out", "out"], ["import", "out", "--storage", there]):
        assert run_command(*words, cwd=tmp_path).code == 0
    assert bo_tune.tune(softmax, PROBLEMS, device=(idle := device()), storage=there) == found
    assert not idle.measured


def test_ranges_may_be_replaced_and_the_study_goes_on(tmp_path: Path) -> None:
    used, url = device(), sqlite_url(tmp_path / "own.db")
    space = {"BLOCK": (1024,), "num_warps": (4, 2)}
    (first,) = bo_tune.tune(softmax, PROBLEMS[:1], device=used, storage=url, space=space)
    assert {(c["BLOCK"], c["num_warps"]) for c in used.measured} == {(1024, 2), (1024, 4)}
    (second,) = bo_tune.tune(softmax, PROBLEMS[:1], device=device(), storage=url, stop=False)
    assert second.study == first.study
    assert second.configs > first.configs
    assert second.config == FASTEST


class EnoughError(Exception):
    """Ends a run in the middle."""


def test_the_same_call_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    def ends_after_six(config: Config) -> float:
        if len(interrupted.measured) > 6:
            raise EnoughError
        return by_distance(config)

    interrupted, url = device(ends_after_six), sqlite_url(tmp_path / "own.db")
    with pytest.raises(EnoughError):
        bo_tune.tune(softmax, PROBLEMS[:1], device=interrupted, storage=url)
    resumed = device()
    (best,) = bo_tune.tune(softmax, PROBLEMS[:1], device=resumed, storage=url)
    before = [tuple(c.items()) for c in interrupted.measured[:6]]
    assert not set(before) & {tuple(c.items()) for c in resumed.measured}
    assert best.configs == 6 + len(resumed.measured)
    assert bo_tune.tune(softmax, PROBLEMS[:1], device=(idle := device()), storage=url) == [best]
    assert not idle.measured


def test_a_fresh_call_measures_anew_and_what_it_found_is_what_counts(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "own.db")
    (first,) = bo_tune.tune(softmax, PROBLEMS[:1], device=device(), storage=url)
    again = device(lambda config: 2 * by_distance(config))
    (second,) = bo_tune.tune(softmax, PROBLEMS[:1], device=again, storage=url, fresh=True)
    assert again.measured
    assert second.time_us > 1.5 * first.time_us
    (third,) = bo_tune.tune(softmax, PROBLEMS[:1], device=(idle := device()), storage=url)
    assert third == second
    assert not idle.measured


def test_studies_of_users_kernels_are_listed_by_whoever_opens_the_database(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "own.db")
    bo_tune.tune(softmax, PROBLEMS, device=device(), storage=url)
    shown = run_command("show", "--storage", url, cwd=tmp_path).out
    assert "softmax_kernel on NVIDIA H100 80GB HBM3 (fake softmax_kernel, triton 5.6, torch 3.4), search" in shown
    assert "rows=4096.cols=1024" in shown
    store = StudyStore(url)
    first, _ = list_studies(store)
    store.close()
    assert (first.name.problem.kernel, first.best_us, first.default_us) == ("softmax_kernel", 10.0, 12.0)


def test_an_unfinished_study_of_an_unknown_kernel_is_listed_too(tmp_path: Path) -> None:
    def ends_after_six(config: Config) -> float:
        if len(interrupted.measured) > 6:
            raise EnoughError
        return by_distance(config)

    interrupted, url = device(ends_after_six), sqlite_url(tmp_path / "own.db")
    with pytest.raises(EnoughError):
        bo_tune.tune(softmax, PROBLEMS[:1], device=interrupted, storage=url)
    shown = run_command("show", "--storage", url, cwd=tmp_path).out
    assert "1 unfinished" in shown


def test_other_problems_of_the_kernel_teach(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "own.db")
    bo_tune.tune(softmax, PROBLEMS[:1], device=device(), storage=url, budget=20)
    store = StudyStore(url)
    same, other = (SizedProblem("softmax_kernel", tuple(sizes.items())) for sizes in PROBLEMS)
    assert Histories(store, bundled=True).of(same, H100) == []
    (history,) = Histories(store, bundled=True).of(other, H100)
    assert history.features.shape == (len(history.times), len(SPEC.feature_names))
    assert history.descriptor["rows"] == 12
    store.close()
    (taught,) = bo_tune.tune(softmax, PROBLEMS[1:], device=device(), storage=url, budget=20)
    assert taught.config == FASTEST


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problems": []}, "expected at least one problem to tune for"),
        ({"problems": [PROBLEMS[0], PROBLEMS[0]]}, "expected each problem only once"),
        ({"problems": [PROBLEMS[0], {"rows": 1}]}, "expected problems with the same sizes"),
        (
            {"problems": [{"rows": None, "cols": 1}]},
            "rows: expected a number, a truth value or a word as a size, got None",
        ),
        ({"problems": [{"rows": "a b", "cols": 1}]}, "expected a number, a truth value or a word as a size"),
        ({"sampler": "best"}, "sampler: expected one of grid-gp, random"),
        ({"sampler": "grid"}, "sampler: expected one of grid-gp, random"),
        ({"space": {"BLOC": (1,)}}, "space: the kernel's space has no 'BLOC'; expected some of ROWS, BLOCK"),
        ({"space": {"BLOCK": ()}}, "space: BLOCK: expected at least one value, and each only once"),
        ({"space": {"BLOCK": (-1,)}}, "BLOCK: expected one of 512, 1024"),
        ({"device": "gpu"}, "device: expected cuda, cuda:N or replay:DIR, got 'gpu'"),
        ({"device": "cuda", "timing": "hot"}, "timing: expected one of cold, warm, graph, got 'hot'"),
        ({"storage": "no such thing"}, "no such thing"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    given = {"problems": PROBLEMS, "device": device(), **arguments}
    with pytest.raises(bo_tune.InputError) as raised:
        bo_tune.tune(softmax, **given)  # type: ignore[arg-type]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_where_nothing_can_be_measured_the_first_reason_is_told() -> None:
    broken = device(lambda config: Invalid(InvalidReason.COMPILE_ERROR, "arange's range must be a power of 2"))
    with pytest.raises(bo_tune.InputError, match="no config could be measured: compile error: arange's range"):
        bo_tune.tune(softmax, PROBLEMS[:1], device=broken, budget=4)


def test_progress_is_shown_on_stderr_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    bo_tune.tune(softmax, PROBLEMS[:1], device=device(), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "rows=4096.cols=1024" in shown.err
    bo_tune.tune(softmax, PROBLEMS[:1], device=device())
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [SHRINK, EXPAND])
def test_features_that_know_nothing_of_the_kernel_beat_random_on_recorded_grids(name: str) -> None:
    """A recorded LoRA grid tuned as a user's kernel: what a search knows of it are its parameters, sizes and grid."""
    recording = bundled(name)
    problem = recording.problem
    sizes = {"m": problem.m, "k": problem.k, "n": problem.n}
    unknown = replace(
        softmax,
        name="unknown",
        space=dict(recording.space.ranges),
        function=_jit_like(recording.space.names),
        output="out",
        valid=lambda sizes, config: recording.time_us(config) is not None and _few_accumulators(config),
        default=None,
        grid=lambda sizes, config: -(-sizes["m"] // config["block_m"]) * -(-sizes["n"] // config["block_n"])
        * config.get("split_k", 1),
    )  # fmt: skip
    best_us = min(time for c in recording.configs() if (time := recording.time_us(c)) is not None)

    def regret(sampler: str, seed: int) -> float:
        on = FakeDevice(lambda config: recording.time_us(config) or 1e6, recording.space)
        (best,) = bo_tune.tune(unknown, [sizes], device=on, sampler=sampler, budget=25, stop=False, seed=seed)
        time_us = recording.time_us({name: int(value) for name, value in best.config.items()})
        assert time_us is not None
        return time_us / best_us - 1

    ours, random = ([regret(sampler, seed) for seed in range(3)] for sampler in ("grid-gp", "random"))
    assert fmean(ours) < 0.6 * fmean(random), (ours, random)


def _few_accumulators(config: Config) -> bool:
    return config["block_m"] * config["block_n"] / (32 * config["num_warps"]) < 256


class JITFunction:
    """As much of Triton's as a definition looks at."""

    def __init__(self, fn: object) -> None:
        self.fn = fn


def _jit_like(names: tuple[str, ...]) -> JITFunction:
    scope: dict[str, object] = {}
    exec(f"def unknown(out, {', '.join(names)}): pass", scope)
    return JITFunction(scope["unknown"])


@pytest.mark.slow
def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, bo_tune; print(sorted(m for m in sys.modules if m.split('.')[0] in HEAVY)); print(dir(bo_tune))"
    code = code.replace("HEAVY", "('torch', 'triton', 'optuna', 'numpy', 'rich', 'sqlalchemy')")
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout
    first, second = shown.splitlines()
    assert first == "[]"
    assert "'tune'" in second
    code = "import sys, bo_tune; bo_tune.tune; print('torch' in sys.modules or 'triton' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout
    assert shown == "False\n"


def test_what_the_package_offers_is_there() -> None:
    assert all(getattr(bo_tune, name) for name in bo_tune.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tuen'"):
        bo_tune.tuen  # noqa: B018
