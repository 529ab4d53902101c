"""Tuning recordings as if they were GPUs, to compare samplers by the regret of what they would have written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from bo_tune.devices import replay_job
from bo_tune.finalists import Choice
from bo_tune.outcome import Invalid
from bo_tune.recording import Recording
from bo_tune.session import Session, SessionSettings, one_blas_thread
from bo_tune.storage import MEMORY, StudyStore
from bo_tune.trials import launched, outcome_of
from bo_tune.tuner import Tuner

CHECKPOINTS = (10, 20, 40, 80)
"""Launched configs after which the regret of what would be written is taken."""

FINAL = "final"


@dataclass(frozen=True, slots=True)
class Run:
    """One recording tuned with one seed.

    Attributes:
        launched_configs: configs launched at least once.
        launches: launches of whatever purpose, the finalists' included.
        invalid_proposed: proposals that proved invalid.
        sampler_ms_per_trial: mean time of a proposal.
        regret_percent: by checkpoint, and at the end: recorded time of the config that would be written, over the
            grid's smallest, minus one. What the study did not reach is left out.
        found_percent: likewise, of the best config launched so far by its recorded time: what the search found,
            whatever noise then made of choosing among the finalists.
        certificate: what the sampler's model said at the end, if it has one.
    """

    recording: str
    sampler: str
    seed: int
    launched_configs: int
    launches: int
    invalid_proposed: int
    sampler_ms_per_trial: float
    regret_percent: Mapping[str, float]
    found_percent: Mapping[str, float]
    certificate: Mapping[str, Any] | None


def simulate(
    recordings: Sequence[Recording],
    settings: SessionSettings,
    *,
    seeds: Iterable[int],
    history: Sequence[Recording] = (),
) -> Iterator[Run]:
    """Tune every recording with every seed, one after the other.

    Args:
        settings: of the studies; the seed is replaced.
        history: recordings tuned first, with the same seed and settings; their studies teach the sampler. A
            recording of the same problem and GPU as the one tuned is never learnt from, so the same folder may
            be given for both.
    """
    with one_blas_thread():
        for seed in seeds:
            yield from _seed(recordings, replace(settings, seed=seed), history)


def _seed(recordings: Sequence[Recording], settings: SessionSettings, history: Sequence[Recording]) -> Iterator[Run]:
    seed = settings.seed
    taught = StudyStore(MEMORY)
    if history:
        Session(taught, settings).run([replay_job(r, seed=seed) for r in history])
    for recording in recordings:
        yield _run(recording, Session(StudyStore(MEMORY), settings, history=taught), seed)


def _run(recording: Recording, session: Session, seed: int) -> Run:
    _, tuner = session.prepare(replay_job(recording, seed=seed))
    settings = session.settings
    regrets: dict[str, float | None] = {}
    found: dict[str, float | None] = {}
    for checkpoint in CHECKPOINTS:
        if settings.budget is not None and checkpoint > settings.budget:
            break
        tuner.search(checkpoint)
        if tuner.launched_configs >= checkpoint:
            regrets[str(checkpoint)] = regret_percent(recording, tuner.choose())
            found[str(checkpoint)] = found_percent(recording, tuner)
    tuner.search()
    choice = tuner.choose()
    regrets[FINAL] = regret_percent(recording, choice)
    found[FINAL] = found_percent(recording, tuner)
    certificate = tuner.certificate
    outcomes = [outcome_of(trial) for trial in tuner.trials]
    launches = sum(outcome.launches.total() for outcome in outcomes) + (choice.launches if choice else 0)
    return Run(
        recording=recording.path.name,
        sampler=settings.sampler,
        seed=seed,
        launched_configs=tuner.launched_configs,
        launches=launches,
        invalid_proposed=sum(isinstance(outcome, Invalid) for outcome in outcomes),
        sampler_ms_per_trial=_proposal_ms(tuner),
        regret_percent={at: regret for at, regret in regrets.items() if regret is not None},
        found_percent={at: regret for at, regret in found.items() if regret is not None},
        certificate=certificate.to_json() if certificate else None,
    )


def _proposal_ms(tuner: Tuner) -> float:
    return round(1e3 * tuner.propose_s / max(1, len(tuner.trials) - 1), 3)  # nobody proposes the default


def regret_percent(recording: Recording, choice: Choice | None) -> float | None:
    """Return the recorded time of the chosen config over the grid's smallest, minus one, in percent.

    None where nothing could be measured, or the chosen default has no recorded time.
    """
    return None if choice is None else _over_best(recording, recording.time_us(choice.config))


def found_percent(recording: Recording, tuner: Tuner) -> float | None:
    """Return the smallest recorded time of the configs launched so far over the grid's, minus one, in percent."""
    times = [recording.time_us(trial.params) for trial in tuner.trials if launched(trial)]
    return _over_best(recording, min((t for t in times if t is not None), default=None))


def _over_best(recording: Recording, time_us: float | None) -> float | None:
    return None if time_us is None else 100.0 * (time_us / recording.best_time_us - 1.0)


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Return mean, median and 90th percentile of the regret and the shares within 1 % and 5 %, by checkpoint."""
    summary: dict[str, Any] = {"runs": len(runs)}
    for checkpoint in (*map(str, CHECKPOINTS), FINAL):
        regrets = np.array([run.regret_percent[checkpoint] for run in runs if checkpoint in run.regret_percent])
        if not len(regrets):
            continue
        summary[checkpoint] = {
            "runs": len(regrets),
            "mean_regret_percent": float(regrets.mean()),
            "median_regret_percent": float(np.median(regrets)),
            "p90_regret_percent": float(np.quantile(regrets, 0.9)),
            "within_1_percent": float((regrets <= 1.0).mean()),
            "within_5_percent": float((regrets <= 5.0).mean()),
        }
    for figure in ("launched_configs", "launches", "invalid_proposed", "sampler_ms_per_trial"):
        summary[f"mean_{figure}"] = float(np.mean([getattr(run, figure) for run in runs])) if runs else None
    return summary


def document(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what ``bo-tune simulate`` writes."""
    return {"runs": [asdict(run) for run in runs], "summary": summarise(runs)}
