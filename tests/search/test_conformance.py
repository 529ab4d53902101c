"""What every sampler of the package keeps to, whatever it proposes."""

import pickle
from collections.abc import Callable, Mapping

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from bo_tune.core.choices import SAMPLERS
from bo_tune.search import GridExhaustedError, GridSampler, distributions, make_sampler

pytestmark = pytest.mark.slow

GRID: dict[str, tuple[int, ...]] = {"block": (16, 32, 64, 128), "warps": (4, 8), "stages": (2, 3, 4), "ctas": (1,)}
DEFAULT = {"block": 8, "warps": 4, "stages": 2, "ctas": 1}
Make = Callable[..., GridSampler]


def valid(config: Mapping[str, object]) -> bool:
    return config != {"block": 128, "warps": 4, "stages": 4, "ctas": 1}


def features(configs: object) -> np.ndarray:
    return np.array([[np.log2(c["block"] * c["stages"]), c["warps"] / c["block"]] for c in configs])  # type: ignore[attr-defined]


def time_us(params: Mapping[str, int]) -> float:
    return 5.0 + abs(np.log2(params["block"]) - 5) + 0.3 * abs(params["stages"] - 3) + 8.0 / params["warps"]


def key(trial: optuna.trial.FrozenTrial | optuna.Trial) -> tuple[object, ...]:
    return tuple(trial.params[name] for name in GRID)


@pytest.fixture(params=SAMPLERS)
def make(request: pytest.FixtureRequest) -> Make:
    def build(seed: int = 0, **options: object) -> GridSampler:
        given = {"default": DEFAULT, "valid": valid, "features": features, **options}
        return make_sampler(request.param, GRID, seed=seed, **given)  # type: ignore[arg-type]

    return build


def step(study: optuna.Study, number: int = 0) -> optuna.Trial:
    """Ask, evaluate and tell one trial; some are invalid, some stopped, some fail."""
    trial = study.ask(distributions(GRID))
    match (trial.params["block"], trial.params["stages"]):
        case (64, 4):
            study.tell(trial, state=TrialState.PRUNED)
        case (16, 4):
            trial.report(99.0, step=0)
            study.tell(trial, state=TrialState.PRUNED)
        case _:
            value = time_us(trial.params)
            trial.set_user_attr("runtimes_us", [value, value * 1.01, value * 1.3])
            study.tell(trial, value)
    return trial


def started(sampler: GridSampler) -> optuna.Study:
    """A study whose first trial, the default config, lies off the grid."""
    study = optuna.create_study(sampler=sampler)
    wide = distributions(GRID, also=[DEFAULT])
    study.add_trial(optuna.create_trial(params=DEFAULT, distributions=wide, value=time_us(DEFAULT)))
    return study


def test_every_valid_config_exactly_once(make: Make) -> None:
    sampler = make()
    study = started(sampler)
    seen = [key(step(study)) for _ in range(23)]
    assert len(set(seen)) == 23
    assert (128, 4, 4, 1) not in seen
    assert sampler.remaining(study) == 0
    with pytest.raises(GridExhaustedError):
        study.ask(distributions(GRID))


def test_optimize_ends_with_the_grid(make: Make) -> None:
    study = optuna.create_study(sampler=make())

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_int(name, min(values), max(values)) for name, values in GRID.items()}
        return time_us(params)

    study.optimize(objective, n_trials=100)
    assert len(study.trials) == 23
    assert len({key(trial) for trial in study.trials}) == 23


def test_same_seed_same_proposals(make: Make) -> None:
    runs = []
    for _ in range(2):
        study = started(make(seed=3))
        runs.append([key(step(study)) for _ in range(14)])
    assert runs[0] == runs[1]


def test_resumed_in_a_new_process_goes_on_alike(make: Make) -> None:
    whole = started(make(seed=1))
    expected = [key(step(whole)) for _ in range(14)]
    study = started(make(seed=1))
    for _ in range(9):
        step(study)
    resumed = optuna.create_study(sampler=pickle.loads(pickle.dumps(make(seed=1))))
    for trial in study.get_trials():
        resumed.add_trial(trial)
    assert [key(step(resumed)) for _ in range(5)] == expected[9:]


def test_running_and_queued_trials_are_left_alone(make: Make) -> None:
    study = started(make())
    queued = {"block": 32, "warps": 8, "stages": 3, "ctas": 1}
    for _ in range(4):
        step(study)
    study.enqueue_trial(queued, skip_if_exists=True)
    running = [study.ask(distributions(GRID)) for _ in range(10)]
    tried = [key(trial) for trial in study.trials[1:]]
    assert len(set(tried)) == len(tried)
    assert {key(trial) for trial in running} <= set(tried)
    for trial in reversed(running):
        study.tell(trial, time_us(trial.params))
    assert key(step(study)) not in tried


def test_a_failed_config_comes_back_once(make: Make) -> None:
    study = optuna.create_study(sampler=make())
    for _ in range(2):
        for _ in range(23):
            trial = study.ask(distributions(GRID))
            if trial.params["block"] == 32:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, time_us(trial.params))
            if study.sampler.remaining(study) == 0:  # type: ignore[attr-defined]
                break
    counts: dict[tuple[object, ...], int] = {}
    for trial in study.trials:
        counts[key(trial)] = counts.get(key(trial), 0) + 1
    assert {config[0]: count for config, count in counts.items()} == {16: 1, 32: 2, 64: 1, 128: 1}


def test_partly_fixed_trials_keep_their_values(make: Make) -> None:
    study = started(make())
    for stages in (2, 3, 4):
        study.enqueue_trial({"stages": stages, "block": 64})
    trials = [study.ask(distributions(GRID)) for _ in range(3)]
    assert [(t.params["stages"], t.params["block"]) for t in trials] == [(2, 64), (3, 64), (4, 64)]


def test_several_objectives_are_refused(make: Make) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make())
    with pytest.raises(ValueError, match="multi-objective"):
        study.ask(distributions(GRID))


def test_maximised_objectives(make: Make) -> None:
    study = optuna.create_study(direction="maximize", sampler=make())
    for _ in range(12):
        trial = study.ask(distributions(GRID))
        study.tell(trial, -time_us(trial.params))
    assert len({key(trial) for trial in study.trials}) == 12


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="one of grid-gp, random"):
        make_sampler("annealing", GRID)
