"""What growing costs: memory over many studies of one session, and commands on a database of many studies.

``python benchmarks/growth.py memory --studies 1000`` tunes so many problems of a recorded grid of 3,200 configs in one
session and tells the resident memory (of this process, and of its search processes) and the seconds a study took, for
every tenth of them. ``--searchers 2`` has proposals made in search processes, as a session on a GPU has; ``--budget``
is of each study.

``python benchmarks/growth.py database FOLDER --studies 10000`` makes a database of so many finished studies of ten
trials each, copies of one that was tuned on a recording, and runs commands on it and on an empty one, best of
``--repeat`` runs: seconds of the clock and of all cores, peak memory, and the size of what was written. What is there
of the database is used again. ``--storage URL`` takes a server's database in its place.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any

from bo_tune.core.conclusion import StopRule
from bo_tune.core.events import Event, StudyFinished
from bo_tune.core.problem import lora
from bo_tune.formats.recording import Recording, read_recording, recording_file_name, write_recording
from bo_tune.measure.devices import Job, replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.attributes import DONE_ATTR, FIGURES_ATTR, JOB_ATTR, ORIGIN_ATTR, RESULT_ATTR, SPACE_ATTR
from bo_tune.store.storage import StudyStore, silence_optuna

RECORDINGS = Path(__file__).parent.parent / "studies" / "recordings"
GRID = "h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json.gz"
TRIALS = 10
COPIED = (SPACE_ATTR, JOB_ATTR, DONE_ATTR, FIGURES_ATTR, ORIGIN_ATTR, RESULT_ATTR)
IN_ONE_TRANSACTION = 500


def problems(recording: Recording, count: int) -> Iterator[Recording]:
    """Return the same grid as if it were that of so many problems."""
    problem = lora(recording.problem)
    for number in range(count):
        yield replace(recording, problem=replace(problem, m=1 + number % 4096, k=512 * (1 + number // 4096)))


def resident_bytes(pids: Sequence[int]) -> int:
    """Return the memory that processes hold, in bytes."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Return the processes below one."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            below += [child, *descendants(child)]
    return below


def memory(studies: int, searchers: int, budget: int) -> None:
    """Tune many problems in one session and print what it held."""
    silence_optuna()
    done = 0
    begun = time.perf_counter()
    sys.stdout.write(
        "| studies done | MiB | MiB of search processes | s a study | CPU s a study |\n|---|---|---|---|---|\n"
    )
    every = max(1, studies // 10)
    cpu_s = time.process_time()

    def listen(event: Event) -> None:
        nonlocal done, begun, cpu_s
        if not isinstance(event, StudyFinished):
            return
        done += 1
        if done % every == 0:
            own, others = resident_bytes([os.getpid()]), resident_bytes(descendants(os.getpid()))
            now, now_cpu_s = time.perf_counter(), time.process_time()
            cells = [done, f"{own / 2**20:.0f}", f"{others / 2**20:.0f}"]
            cells += [f"{(now - begun) / every:.3f}", f"{(now_cpu_s - cpu_s) / every:.3f}"]
            sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")
            sys.stdout.flush()
            begun, cpu_s = now, now_cpu_s

    with tempfile.TemporaryDirectory() as folder, StudyStore(f"sqlite:///{folder}/studies.db") as store:
        settings = SessionSettings(budget=budget, searchers=searchers, stop_rule=StopRule())
        jobs: list[Job] = [replay_job(one) for one in problems(read_recording(RECORDINGS / GRID), studies)]
        Session(store, settings, listener=listen).run(jobs)


def fill(url: str, studies: int) -> None:
    """Have a database of many finished studies: copies of one, each of a problem of its own."""
    recording = read_recording(RECORDINGS / GRID)
    settings = SessionSettings(budget=TRIALS)
    with StudyStore(url) as store:
        if len(store.names()) >= studies:
            return
        first = next(problems(recording, 1))
        (tuned,) = Session(store, settings).run([replay_job(first)])
        one = store.load(tuned.name)
        attributes, trials = one.attributes(), one.trials()
        copied = {key: attributes[key] for key in COPIED if key in attributes}
        result = attributes[RESULT_ATTR]
        others = [replace(tuned.name, problem=r.problem) for r in problems(recording, studies)]
        for start in range(0, studies, IN_ONE_TRANSACTION):
            some = others[start : start + IN_ONE_TRANSACTION]
            opened = store.open_all(dict.fromkeys(some, first.gpu))
            empty = [study for name, study in opened.items() if RESULT_ATTR not in study.attributes()]
            store._insert([((study.study_id, None), trial) for study in empty for trial in trials])
            results = {study.study_id: {**copied, RESULT_ATTR: slower(result, study.study_id)} for study in empty}
            given = results.items()
            store._keeper.write([], lambda rows, _, given=given: list(starmap(rows.set_attributes, given)))


def slower(result: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a result that no other study has."""
    return {**result, "default_time_us": result["default_time_us"] * (1 + number / 1e6)}


def measured(command: Sequence[str], repeat: int) -> tuple[float, float, float]:
    """Run a command and return the least seconds of the clock and of all cores, and the most MiB it held."""
    best = (float("inf"), float("inf"))
    for _ in range(repeat):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "bo_tune", *command], check=True, stdout=subprocess.DEVNULL)
        wall_s, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best[0], wall_s), min(best[1], cpu_s)
    return *best, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10


def database(folder: Path, storage: str | None, studies: int, repeat: int) -> None:
    """Print what commands cost on a database of many studies."""
    silence_optuna()
    folder.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{folder}/{studies}.db"
    begun = time.perf_counter()
    fill(url, studies)
    sys.stdout.write(f"{studies} studies of {TRIALS} trials made in {time.perf_counter() - begun:.0f} s\n\n")
    recording = read_recording(RECORDINGS / GRID)
    new = replace(recording, problem=replace(lora(recording.problem), m=100_000))
    (folder / "new").mkdir(exist_ok=True)
    write_recording(folder / "new" / recording_file_name(new.gpu, new.problem), new)
    page = folder / "report.html"
    tune = ["tune", "--device", f"replay:{folder}/new", "--out", f"{folder}/tuned", "--budget", "2", "--fresh"]
    commands = {
        "--version": ["--version"],
        "show": ["show", "--storage", url],
        "show of one": ["show", "m7.k512.", "--storage", url],
        "tune in a new database": [*tune, "--storage", f"sqlite:///{folder}/{os.getpid()}.db"],
        "tune in this one": [*tune, "--storage", url],
        "report": ["report", "--storage", url, "--out", str(page)],
    }
    sys.stdout.write("| command | s | CPU s | MiB at most so far |\n|---|---|---|---|\n")
    for name, command in commands.items():
        wall_s, cpu_s, held = measured(command, repeat)
        sys.stdout.write(f"| {name} | {wall_s:.2f} | {cpu_s:.2f} | {held:.0f} |\n")
        sys.stdout.flush()
    sys.stdout.write(f"\nThe report's page has {page.stat().st_size / 1e6:.1f} MB.\n")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    sessions = kinds.add_parser("memory")
    sessions.add_argument("--studies", type=int, default=1000)
    sessions.add_argument("--searchers", type=int, default=0)
    sessions.add_argument("--budget", type=int, default=40)
    databases = kinds.add_parser("database")
    databases.add_argument("folder", type=Path)
    databases.add_argument("--storage")
    databases.add_argument("--studies", type=int, default=10_000)
    databases.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    if asked.kind == "memory":
        memory(asked.studies, asked.searchers, asked.budget)
    else:
        database(asked.folder, asked.storage, asked.studies, asked.repeat)


if __name__ == "__main__":
    main()
