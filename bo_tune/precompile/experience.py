"""Collects what earlier studies and recordings know of a kernel, to tell which of its binaries will be wanted.

Unlike ``history``, from which searches learn, this leaves out nothing. If the very problem was tuned before, no other
study says as much, and nothing is measured with this knowledge.
"""

from collections.abc import Iterable, Sequence

from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.study_name import StudyName
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import IN_ORDER
from bo_tune.search import StudyHistory
from bo_tune.store.attributes import GPU_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.bundled import bundled_grids
from bo_tune.tuning.history import bundled_history, history_from, history_of


class Experience:
    """Histories by kernel."""

    def __init__(self) -> None:
        self._known: dict[str, list[StudyHistory]] = {}

    def of(self, problem: Problem) -> Sequence[StudyHistory]:
        """Return what is known of the problem's kernel."""
        return self._known.get(problem.kernel, [])

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def learn_studies(self, store: StudyStore) -> None:
        """Learn from the studies of a database, finished or not."""
        for summary in store.summaries():
            problem = summary.name.problem
            if problem.kernel in IN_ORDER and GPU_ATTR in summary.attributes:
                gpu = GpuInfo.from_json(summary.attributes[GPU_ATTR])
                trials = store.trials_of([summary]).get(summary.name)
                self._note(problem, None if trials is None else history_of(trials, summary.name, gpu))

    def learn_bundled(self) -> None:
        """Learn from the grids that come with the package."""
        for grid in bundled_grids():
            self._note(grid.name.problem, bundled_history(grid.name))

    def learn_recordings(self, recordings: Iterable[Recording]) -> None:
        """Learn from recorded grids."""
        for recording in recordings:
            self._note(recording.problem, recorded_history(recording))

    def _note(self, problem: Problem, history: StudyHistory | None) -> None:
        if history is not None:
            self._known.setdefault(problem.kernel, []).append(history)


def recorded_name(recording: Recording) -> StudyName:
    """Return the name that the study of a recorded grid would have."""
    return StudyName(recording.problem, recording.gpu.name, recording.kernel_source, exhaustive=True)


def recorded_history(recording: Recording) -> StudyHistory | None:
    """Return what a recorded grid teaches, or None if it has too few times.

    Its times are those of the repetitions, like a trial's. The recorded times of the fastest configs come from
    re-measuring them, and may be on another level than the others'.
    """
    entries = ((config, recording.entry(config)) for config in recording.configs())
    timed = [(config, estimate_us(e.runtimes_us)) for config, e in entries if e is not None and e.runtimes_us]
    return history_from(timed, recorded_name(recording), recording.gpu)
