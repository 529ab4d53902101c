"""Writes what comes with the package to teach studies.

python studies/bundle.py                         # bundled.json.gz: the recorded grids
python studies/bundle.py sqlite:///folders.db …  # experience.json.gz as well: the searches of these databases
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.precompile.experience import recorded_history, recorded_name
from bo_tune.search import StudyHistory
from bo_tune.search.gp.prior import ROWS_PER_STUDY, distance
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.bundled import GRIDS, SEARCHES, BundledGrid, packed
from bo_tune.tuning.history import descriptor, history_of

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "studies" / "recordings"

ALIKE = 0.3
"""Squared distance below which one of two studies is enough."""

ROWS_PER_SEARCH = 24
"""Trials of a search that are kept."""


def grids() -> list[Recording]:
    """Return every recording of the project that teaches. The example kernels in ``own`` have nobody to teach."""
    folders = sorted({path.parent for path in RECORDED.rglob("*.json.gz")} - {RECORDED / "own"})
    return [recording for folder in folders for recording in read_recordings(folder)]


def bundled(recording: Recording) -> BundledGrid | None:
    """Return what is kept of a recording; None where it has too few times to teach."""
    history = recorded_history(recording)
    return None if history is None else kept(recorded_name(recording), recording.gpu, history, ROWS_PER_STUDY)


def kept(name: StudyName, gpu: GpuInfo, history: StudyHistory, rows: int) -> BundledGrid:
    """Return so many trials of a study, with fast ones denser than slow ones."""
    sample = history.sample(rows)
    configs = [{parameter: int(value) for parameter, value in config.items()} for config in sample.configs]
    return BundledGrid(name, gpu, configs, [round(float(time_us), 3) for time_us in sample.times])


def searches(urls: Iterable[str]) -> list[BundledGrid]:
    """Return what is kept of databases: of studies that are much alike, the one with the most trials."""
    found: dict[StudyName, tuple[GpuInfo, StudyHistory]] = {}
    for url in urls:
        with StudyStore(url) as store:
            summaries = [one for one in store.summaries() if isinstance(one.name.problem, LoraProblem)]
            trials = store.trials_of(summaries)
        for one in summaries:
            history = history_of(trials[one.name], one.name, one.gpu)
            known = found.get(one.name)
            if history is not None and (known is None or len(history.times) > len(known[1].times)):
                found[one.name] = one.gpu, history
    apart: defaultdict[tuple[object, ...], list[dict[str, float]]] = defaultdict(list)
    chosen = []
    for name, (gpu, history) in sorted(found.items(), key=lambda item: (-len(item[1][1].times), str(item[0]))):
        here, others = descriptor(name.problem, gpu), apart[name.problem.kernel, name.place]
        if all(distance(here, other) >= ALIKE for other in others):
            others.append(here)
            chosen.append(kept(name, gpu, history, ROWS_PER_SEARCH))
    return sorted(chosen, key=lambda grid: str(grid.name))


def write(file: str, chosen: Sequence[BundledGrid]) -> None:
    """Write one of the files, and say what is in it."""
    path = ROOT / "bo_tune" / "tuning" / file
    path.write_bytes(packed(chosen))
    trials = sum(len(one.times_us) for one in chosen)
    print(f"{file}: {len(chosen)} studies, {trials} trials, {path.stat().st_size} bytes")


def main() -> None:
    """Write the files."""
    write(GRIDS, [one for recording in grids() if (one := bundled(recording)) is not None])
    if sys.argv[1:]:
        write(SEARCHES, searches(sys.argv[1:]))


if __name__ == "__main__":
    main()
