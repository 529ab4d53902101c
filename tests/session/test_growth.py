"""What does not grow with use: what a session holds, and statements of the database."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import H100, ROOT, SHRINK, script, sliced, sqlite_url
from postgres import Postgres
from sqlalchemy import event

from bo_tune.analysis.listing import list_studies, study_detail
from bo_tune.analysis.review import review
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import replay_job
from bo_tune.search import Grid
from bo_tune.search.gp.model import GridModel
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.history import Histories
from bo_tune.tuning.search_pool import Recipe, _Close, _Open, _Served, _Server
from bo_tune.tuning.tuner import Tuner

pytestmark = pytest.mark.slow

GROWTH = script(ROOT / "benchmarks" / "growth.py")
OTHER = sliced(SHRINK, m=8192)


def held() -> dict[str, int]:
    """Count what a finished study must not leave behind."""
    gc.collect()
    found = [type(one) for one in gc.get_objects()]
    return {kind.__name__: found.count(kind) for kind in (Tuner, GridModel)}


def test_a_session_holds_nothing_of_finished_searches(tmp_path: Path) -> None:
    before = held()
    with StudyStore(sqlite_url(tmp_path / "x.db")) as store:
        session = Session(store, SessionSettings(budget=8))
        tuned = session.run([replay_job(sliced(SHRINK, m=m)) for m in (32, 64, 128)])
        assert held() == before
        assert [len(one.trials) for one in tuned] == [one.tried for one in tuned]
        assert session.activity.trials == sum(one.tried for one in tuned)
        assert session.activity.studies_begun == len(tuned)


def test_a_search_process_forgets_a_study_at_once() -> None:
    """It holds no cycle: memory of studies would pile up until garbage is sought."""
    recording, spec = sliced(SHRINK), kernel_spec("lora_shrink")
    space, default = recording.space, spec.default_config(recording.problem)
    ranges = dict(space.ranges)
    recipe = Recipe("grid-gp", ranges, Grid(ranges).valid, default, recording.problem, H100, None, 0)
    server = _Server()
    gc.disable()
    try:
        server.answer(_Open(0, recipe))
        served: weakref.ref[_Served] = weakref.ref(server._studies[0])
        server.answer(_Close(0))
        assert served() is None
    finally:
        gc.enable()


@contextmanager
def statements(store: StudyStore) -> Iterator[list[str]]:
    """Gather what is asked of the database meanwhile."""
    found: list[str] = []
    engine = store._database.engine

    def note(_c: object, _u: object, statement: str, *_: object) -> None:
        found.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Databases of few and of many studies."""
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("growth")
        found = sqlite_url(folder / "few.db"), sqlite_url(folder / "many.db")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        found = server.new_database(), server.new_database()
    for url, studies in zip(found, (8, 80), strict=True):
        GROWTH.fill(url, studies)
    return found


def asked(url: str) -> dict[str, int]:
    """Count the statements of what people do with a database; of a session's start, those on whole tables too."""
    counts = {}
    with StudyStore(url) as store:
        with statements(store) as found:
            assert len(list_studies(store)) >= 8
        counts["show"] = len(found)
        with statements(store) as found:
            (one,) = list_studies(store, ["m7.k512."])
            assert study_detail(store, one).result is not None
        counts["show of one"] = len(found)
        with statements(store) as found:
            assert len(Histories(store, bundled=False).of(OTHER.problem, OTHER.gpu)) == 6
        counts["teaching"] = len(found)
        with statements(store) as found:
            Session(store, SessionSettings(budget=1, bundled=False)).register([replay_job(OTHER)])
        counts["registering"] = len(found)
        with statements(store) as found:
            assert review(store).studies
        counts["report"] = len(found)
    return counts


def test_statements_do_not_grow_with_studies(urls: tuple[str, str]) -> None:
    few, many = map(asked, urls)
    assert few == many


def test_only_the_nearest_studies_are_read_to_teach(urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    with StudyStore(urls[1]) as store:
        trials_of = store.trials_of
        monkeypatch.setattr(
            store, "trials_of", lambda some: (read.extend(s.name.problem.m for s in some), trials_of(some))[1]
        )
        Histories(store, bundled=False).of(sliced(SHRINK, m=20).problem, OTHER.gpu)
    assert len(read) == 6
    assert max(read) <= 24
