"""Tunes recordings as if they were GPUs, to compare samplers by the regret of what they would have written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import Invalid
from bo_tune.core.problem import lora
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import Job, replay_job, together
from bo_tune.processes.threads import one_blas_thread
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import launched, outcome_of
from bo_tune.tuning.conclude import Search
from bo_tune.tuning.joint.choice import best_recorded_us, best_together
from bo_tune.tuning.race import Choice
from bo_tune.tuning.tuner import Tuner

CHECKPOINTS = (10, 20, 40, 80)
"""Numbers of launched configs after which the regret of the config that would be written is taken."""

FINAL = "final"


@dataclass(frozen=True, slots=True)
class Run:
    """One recording tuned with one seed, or several together if their kernels must agree.

    For several, times are sums, and the grid's smallest time is the smallest sum under one value of the shared
    parameter.

    Attributes:
        launched_configs: configs launched at least once. For several kernels, that of the kernel that launched most.
        launches: launches for any purpose, including those of the finalists.
        invalid_proposed: proposals that proved invalid.
        sampler_ms_per_trial: mean time of a proposal.
        regret_percent: by checkpoint, and at the end: recorded time of the config that would be written, over the
            grid's smallest, minus one. Checkpoints that the study did not reach are left out.
        found_percent: likewise for the best config launched so far by its recorded time: what the search found, however
            noise then affected the choice among the finalists.
        certificate: the sampler's certificate at the end, if it has a model.
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

    Recordings of kernels that decide for others are left out, since they are searched exhaustively with any sampler.

    Args:
        settings: of the studies; the seed is replaced.
        history: recordings tuned first, with the same seed and settings. Their studies teach the sampler. It never
            learns from a recording of the problem and GPU that is tuned, so the same folder may be given for both.
    """
    recordings, history = (
        [one for one in some if not kernel_spec(one.problem.kernel).decides] for some in (recordings, history)
    )
    with one_blas_thread():
        for seed in seeds:
            taught = _teach(history, replace(settings, seed=seed))
            yield from _seed(recordings, replace(settings, seed=seed), taught)


def _teach(history: Sequence[Recording], settings: SessionSettings) -> StudyStore:
    """Tune recordings into a store of their own."""
    taught = StudyStore(MEMORY)
    if history:
        Session(taught, settings).run([replay_job(r, seed=settings.seed) for r in history])
    return taught


def _seed(recordings: Sequence[Recording], settings: SessionSettings, taught: StudyStore) -> Iterator[Run]:
    seed = settings.seed
    jobs = [replay_job(recording, seed=seed) for recording in recordings]
    of_job = {id(job): recording for job, recording in zip(jobs, recordings, strict=True)}
    for group in together(jobs):
        session = Session(StudyStore(MEMORY), settings, history=taught)
        yield _run(group, [of_job[id(job)] for job in group], session)


def _run(jobs: Sequence[Job], recordings: Sequence[Recording], session: Session) -> Run:
    tuners, search = session.opener.open_together(jobs)
    settings = session.settings
    regrets: dict[str, float | None] = {}
    found: dict[str, float | None] = {}
    for checkpoint in CHECKPOINTS:
        if settings.budget is not None and checkpoint > settings.budget:
            break
        search.search(checkpoint)
        if min(tuner.launched_configs for tuner in tuners) >= checkpoint:
            regrets[str(checkpoint)] = regret_percent(recordings, choices_of(search))
            found[str(checkpoint)] = found_percent(recordings, tuners)
    search.search()
    choices = choices_of(search)
    regrets[FINAL] = regret_percent(recordings, choices)
    found[FINAL] = found_percent(recordings, tuners)
    certificate = search.certificate
    outcomes = [outcome_of(trial) for tuner in tuners for trial in tuner.trials]
    return Run(
        recording=name_of(recordings),
        sampler=settings.sampler,
        seed=settings.seed,
        launched_configs=max(tuner.launched_configs for tuner in tuners),
        launches=sum(o.launches.total() for o in outcomes) + sum(choice.launches.total() for choice in choices or ()),
        invalid_proposed=sum(isinstance(outcome, Invalid) for outcome in outcomes),
        sampler_ms_per_trial=_proposal_ms(tuners),
        regret_percent={at: regret for at, regret in regrets.items() if regret is not None},
        found_percent={at: regret for at, regret in found.items() if regret is not None},
        certificate=certificate.to_json() if certificate else None,
    )


def _proposal_ms(tuners: Sequence[Tuner]) -> float:
    proposed = sum(len(tuner.trials) - 1 for tuner in tuners)  # the default is not proposed
    return round(1e3 * sum(tuner.propose_s for tuner in tuners) / max(1, proposed), 3)


def choices_of(search: Search) -> Sequence[Choice] | None:
    """Return what would be written for each kernel now, or None if nothing was measured."""
    choice = search.choose()
    return None if choice is None else choice.choices


def name_of(recordings: Sequence[Recording]) -> str:
    """Return the name of a recording's file, or one for several that are tuned together."""
    if len(recordings) == 1:
        return recordings[0].path.name
    problem, count = lora(recordings[0].problem), len(recordings)
    gpu = recordings[0].path.name.partition(".")[0]
    return f"{gpu}.{count} kernels.L{problem.max_loras}.m{problem.m}.k{problem.k}.n{problem.n}.i{problem.i}"


def regret_percent(recordings: Sequence[Recording], choices: Sequence[Choice] | None) -> float | None:
    """Return the recorded time of the chosen configs over the grids' smallest, minus one, in percent.

    None if nothing could be measured, or the chosen default has no recorded time.
    """
    if choices is None:
        return None
    times = [r.time_us(choice.config) for r, choice in zip(recordings, choices, strict=True)]
    known = [time for time in times if time is not None]
    return _over_best(recordings, sum(known)) if len(known) == len(times) else None


def found_percent(recordings: Sequence[Recording], tuners: Sequence[Tuner]) -> float | None:
    """Return the smallest recorded time of the configs launched so far over the grids', minus one, in percent."""
    tried = []
    for recording, tuner in zip(recordings, tuners, strict=True):
        configs = [trial.params for trial in tuner.trials if launched(trial)]
        tried.append([(config, time) for config in configs if (time := recording.time_us(config)) is not None])
    return _over_best(recordings, best_together(tried))


def _over_best(recordings: Sequence[Recording], time_us: float | None) -> float | None:
    return None if time_us is None else 100.0 * (time_us / best_recorded_us(recordings) - 1.0)


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
    """Return the content that ``bo-tune simulate`` writes."""
    return {"runs": [asdict(run) for run in runs], "summary": summarise(runs)}
