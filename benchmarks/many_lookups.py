"""What tuning many lookups costs the tuning process, on a recorded grid: seconds against how many there are.

``python benchmarks/many_lookups.py`` tunes so many problems of the grid of ``benchmarks/growth.py`` in one session and
a SQLite file, and needs no GPU. ``--sampler grid-gp`` has proposals made in ``--searchers`` search processes, which are
not counted; with ``random`` there is next to nothing to propose, and what is left is the tuning process alone.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from growth import GRID, RECORDINGS, problems

from bo_tune.core.choices import GRID_GP
from bo_tune.core.conclusion import StopRule
from bo_tune.formats.recording import read_recording
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore, silence_optuna


def tuned(studies: int, settings: SessionSettings) -> tuple[float, float, int]:
    """Tune so many problems in a new database; return seconds of the clock, of this process's CPU, and trials."""
    jobs = [replay_job(recording) for recording in problems(read_recording(RECORDINGS / GRID), studies)]
    with tempfile.TemporaryDirectory() as folder, StudyStore(f"sqlite:///{Path(folder, 'x.db')}") as store:
        start, cpu = time.perf_counter(), time.process_time()
        found = Session(store, settings).run(jobs)
        return time.perf_counter() - start, time.process_time() - cpu, sum(one.tried for one in found)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", default=[10, 100, 500, 1000])
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--budget", type=int, default=10)
    parser.add_argument("--searchers", type=int, default=1)
    options = parser.parse_args()
    silence_optuna()
    learns = options.sampler == GRID_GP
    settings = SessionSettings(
        sampler=options.sampler,
        budget=options.budget,
        in_flight=8,
        compilers=8,
        searchers=options.searchers if learns else 0,
        stop_rule=StopRule() if learns else None,
    )
    tuned(2, settings)  # what is loaded once
    print(
        f"{options.sampler}, budget {options.budget}\n\n| lookups | s | CPU s | trials | CPU ms a trial | ms a lookup |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    points = []
    for studies in options.studies:
        wall, cpu, trials = tuned(studies, settings)
        points.append((studies, cpu))
        row = f"| {studies:,} | {wall:.1f} | {cpu:.2f} | {trials:,} | {1000 * cpu / trials:.2f}"
        print(f"{row} | {1000 * wall / studies:.0f} |", flush=True)
    if len(points) > 1:
        lookups, cpu_s = np.array(points).T
        power = np.polyfit(np.log(lookups), np.log(cpu_s), 1)[0]
        slope = np.polyfit(lookups, cpu_s, 1)[0]
        print(f"\nCPU grows by {1000 * slope:.1f} ms a lookup, with the power {power:.2f} of their number.")


if __name__ == "__main__":
    main()
