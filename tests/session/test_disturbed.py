"""Studies that are disturbed while they are measured: told, marked in the database at once, and in what is written."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from helpers import H100, SHRINK_TABLE, FakeDevice, sqlite_url
from rich.console import Console
from watches import Scripted, using

from bo_tune.analysis.listing import StudyListing, list_studies, study_detail, study_figures
from bo_tune.core.events import Event, GpuNoticed
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config
from bo_tune.display.results import results_tables, session_lines
from bo_tune.display.studies import studies_lines, studies_tables, study_lines
from bo_tune.engines.folder import read_provenance, write_tables
from bo_tune.formats.recording import read_recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import job_of
from bo_tune.measure.watch import monitor as gpu_monitor
from bo_tune.measure.watch.monitor import GpuMonitor
from bo_tune.measure.watch.neighbours import PRESENT, slowed_text
from bo_tune.session.exchange import export_study, import_study
from bo_tune.session.exported import read_exported
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.attributes import DISTURBED_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.tuner import InterruptedSearch

OURS, OTHER, LONG_S = 100, 7, 60.0
SPACE = kernel_spec("lora_shrink").search_space.override(
    {"block_m": (16, 32), "block_n": (32,), "block_k": (64,), "num_warps": (4,), "split_k": (4, 8, 16)}
)
SETTINGS = SessionSettings(sampler="random", budget=6, in_flight=1)
BUSY = "GPU 0 is busy: 1 other process, 87 % utilisation: times will be distorted"
SPOILT = f"{H100.name}: {PRESENT}: times are distorted, and marked"
SHAPE = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16).shape_label
IDLE, SHARED = using(OURS), using(OURS, OTHER)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_monitor, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(gpu_monitor, "BETWEEN_LOOKS_S", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    made = StudyStore(sqlite_url(tmp_path / "x.db"))
    yield made
    made.close()


class Gpu:
    """A GPU whose driver follows a script."""

    def __init__(self, *readings: object, on_measure: Callable[[Config], None] = lambda config: None) -> None:
        self.watch = Scripted(readings)  # type: ignore[arg-type]
        self.monitor = GpuMonitor("GPU 0", self.watch, lambda: {OURS}, lambda: 1)
        self.device = FakeDevice(times=lambda c: 1.0 + c["split_k"], space=SPACE, monitor=self.monitor)
        self.device.on_measure = on_measure

    def tune(self, store: StudyStore, ms: tuple[int, ...] = (16,), heard: list[Event] | None = None) -> list[Tuned]:
        """Tune problems, watched."""
        jobs = [job_of(LoraProblem("lora_shrink", 4, 1, m, 4096, 16), self.device) for m in ms]
        session = Session(store, SETTINGS, listener=(heard if heard is not None else []).append)
        self.monitor.begin()
        try:
            tuned = session.run(jobs)
        finally:
            self.monitor.close()
        self.entries = session.entries(tuned)
        return tuned


def listed(store: StudyStore) -> list[StudyListing]:
    return list_studies(store)


def told(heard: list[Event]) -> list[tuple[str, bool]]:
    return [(event.text, event.spoils) for event in heard if isinstance(event, GpuNoticed)]


def text_of(tables: object) -> str:
    console = Console(width=160, file=StringIO(), force_terminal=False)
    for table in tables:  # type: ignore[attr-defined]
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_busy_gpu_is_told_before_anything_is_measured(store: StudyStore) -> None:
    heard: list[Event] = []
    Gpu(*[using(OTHER, percent=87)] * gpu_monitor.LOOKS_BEFORE, SHARED).tune(store, heard=heard)
    assert heard[0] == GpuNoticed(BUSY, spoils=True)
    assert told(heard) == [(BUSY, True), (SPOILT, True)], "each once"


def test_a_quiet_gpu_leaves_word_that_nothing_disturbed(store: StudyStore, tmp_path: Path) -> None:
    heard: list[Event] = []
    gpu = Gpu(using(), IDLE)
    (tuned,) = gpu.tune(store, heard=heard)
    assert told(heard) == []
    assert (tuned.disturbed, listed(store)[0].disturbed, study_figures(tuned)["disturbed"]) == ([], [], [])
    write_tables(tmp_path / "out", gpu.entries)
    (origin,) = read_provenance(tmp_path / "out" / SHRINK_TABLE).values()
    assert origin.disturbed == []
    assert " !" not in text_of(results_tables([tuned])) + "".join(session_lines([tuned]))


def test_what_disturbed_is_in_everything_that_tells_of_the_study(store: StudyStore, tmp_path: Path) -> None:
    gpu = Gpu(using(), replace(SHARED, slowed=("too hot",)))
    (tuned,) = gpu.tune(store)
    what = sorted([PRESENT, slowed_text("too hot")])
    assert tuned.disturbed == study_figures(tuned)["disturbed"] == what
    write_tables(tmp_path / "out", gpu.entries)
    (origin,) = read_provenance(tmp_path / "out" / SHRINK_TABLE).values()
    assert origin.disturbed == what
    (listing,) = listed(store)
    assert listing.to_json()["disturbed"] == what
    assert f"{SHAPE} !" in text_of(results_tables([tuned]))
    assert f"{SHAPE} !" in text_of(studies_tables([listing]))
    for lines in (session_lines([tuned]), studies_lines([listing])):
        assert lines[-1].startswith(f"1 marked !: their times are distorted ({', '.join(what)})")
    assert f"times are distorted: {', '.join(what)}" in study_lines(study_detail(store, listing))


def test_only_studies_under_way_at_the_time_are_marked(store: StudyStore) -> None:
    gpu = Gpu(using(), IDLE)
    measured: list[Config] = []

    def measure(config: Config) -> None:
        measured.append(config)
        gpu.watch.says(SHARED if len(measured) == 9 else IDLE)  # in the second of three studies
        reads = gpu.watch.reads
        while gpu.watch.reads < reads + 2:
            time.sleep(0.001)

    gpu.device.on_measure = measure
    tuned = gpu.tune(store, (16, 32, 64))
    assert [one.disturbed for one in tuned] == [[], [PRESENT], []]
    assert [study.disturbed for study in listed(store)] == [[], [PRESENT], []]


def test_the_mark_is_in_the_database_at_once(store: StudyStore) -> None:
    seen: list[object] = []

    def wait_for_mark(config: Config) -> None:
        deadline = time.monotonic() + LONG_S
        while not seen and time.monotonic() < deadline:
            seen.extend(filter(None, store.attribute_of(DISTURBED_ATTR).values()))

    Gpu(using(), SHARED, on_measure=wait_for_mark).tune(store)
    assert seen == [[PRESENT]]


def test_a_mark_stays_when_the_study_goes_on_in_peace(store: StudyStore) -> None:
    def interrupt(config: Config) -> None:
        if len(disturbed.device.measured) == 3:
            raise InterruptedSearch

    disturbed = Gpu(using(), SHARED, on_measure=interrupt)
    with pytest.raises(InterruptedSearch):
        disturbed.tune(store)
    (tuned,) = Gpu(using(), IDLE).tune(store)
    assert tuned.resumed
    assert tuned.disturbed == [PRESENT]
    (kept,) = Gpu(using(), IDLE).tune(store)
    assert kept.disturbed == [PRESENT]


def test_of_what_was_not_watched_from_its_beginning_nothing_is_known(store: StudyStore, tmp_path: Path) -> None:
    gpu = Gpu(using(), IDLE)
    gpu.device.monitor, gpu.device.unwatched = None, "bo_tune cannot tell whether others use GPU 0: no such package"
    heard: list[Event] = []
    (tuned,) = gpu.tune(store, heard=heard)
    assert told(heard) == [(gpu.device.unwatched, False)]
    assert tuned.disturbed is None
    assert "disturbed" not in gpu.entries[0].provenance.to_json()  # type: ignore[union-attr]
    (kept,) = Gpu(using(), IDLE).tune(store)
    assert kept.disturbed is None


def test_where_no_processes_are_shown_nothing_is_known(store: StudyStore) -> None:
    heard: list[Event] = []
    (tuned,) = Gpu(using(), using()).tune(store, heard=heard)
    assert tuned.disturbed is None
    ((text, spoils),) = told(heard)
    assert "the driver does not show its processes" in text
    assert not spoils


def test_an_exported_study_takes_its_mark_along(store: StudyStore, tmp_path: Path) -> None:
    Gpu(using(), SHARED).tune(store)
    (summary,) = store.summaries()
    path = export_study(summary, store.trials_of([summary])[summary.name], tmp_path)
    other = StudyStore(sqlite_url(tmp_path / "other.db"))
    assert path is not None
    import_study(other, read_exported(read_recording(path)))
    (study,) = list_studies(other)
    other.close()
    assert study.disturbed == [PRESENT]
