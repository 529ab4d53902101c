"""An exhaustive study as a T4 recording."""

from pathlib import Path

from bo_tune.core.outcome import Invalid, InvalidReason, Outcome
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.formats.recording import Recording, recording_file_name, write_recording
from bo_tune.formats.recording_format import DEFAULT_CONFIG
from bo_tune.session.session import Tuned
from bo_tune.store.trials import outcome_of
from bo_tune.tuning.candidates import Candidates

TIMING = (
    "CUDA events around one launch, 256 MB written to L2 before each; 'time' is the median of the repetitions within "
    "1.25 x their lower quartile, and for the finalists that of their interleaved re-measurements"
)


def grid_outcomes(candidates: Candidates, tried: dict[ConfigKey, Outcome]) -> list[tuple[dict[str, int], Outcome]]:
    """Return the outcome of every config of the grid, in its order.

    A config identical to another has the other's outcome; one excluded before any trial is invalid. Of one that a
    budget left untried, or that a replayed recording does not hold, nothing is known: it is left out.
    """
    outcomes = []
    for config in candidates.space:
        key = candidates.twins.get(config_key(config), config_key(config))
        unknown = Invalid(InvalidReason.NOT_RECORDED if key in candidates.keys else InvalidReason.CONSTRAINT)
        outcomes.append((config, tried.get(key, unknown)))
    return [(c, o) for c, o in outcomes if not (isinstance(o, Invalid) and o.reason is InvalidReason.NOT_RECORDED)]


def record(tuned: Tuned, folder: Path) -> Path:
    """Write one recording of an exhaustive study into a folder; returns its path."""
    job, problem, candidates, result = tuned.job, tuned.job.problem, tuned.candidates, tuned.result
    tried = {config_key(trial.params): outcome_of(trial) for trial in tuned.trials}
    times = {config_key(config): time_us for config, time_us in result.finalists} if result else {}
    twins = {config: times[stand_in] for config, stand_in in candidates.twins.items() if stand_in in times}
    path = folder / recording_file_name(job.device.gpu, problem)
    recording = Recording.of(
        path,
        problem,
        job.device.gpu,
        grid_outcomes(candidates, tried),
        kernel_source=tuned.name.kernel_source,
        space=candidates.space,
        default_time_us=result.default_time_us if result else None,
        times_us={**times, **twins},
        metadata={
            **job.device.provenance,
            "timing": TIMING,
            DEFAULT_CONFIG: dict(tuned.default),
            **({} if tuned.disturbed is None else {"disturbed": list(tuned.disturbed)}),
            "shape": job.spec.product_sizes(problem, job.device.conditions),
        },
    )
    write_recording(path, recording)
    return path
