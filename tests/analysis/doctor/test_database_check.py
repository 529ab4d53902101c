"""What the doctor says of databases, each asked for by the process that it starts for that."""

import time
from pathlib import Path

import pytest
from helpers import PATIENCE_S, sqlite_url

from bo_tune.analysis.doctor import Finding, verdicts
from bo_tune.analysis.doctor.examine import STORE_MODULE
from bo_tune.measure.examined.asking import Asked
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow


def found(url: str) -> Finding:
    asked = Asked(STORE_MODULE)
    try:
        asked.tell(url)
        return verdicts.database(url, asked.answers(time.monotonic() + PATIENCE_S), asked)
    finally:
        asked.close()


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("made", "ok", ": 0 studies"),
        ("sqlite:////none/x.db", "failed", "the folder /none does not exist"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/x", "failed", "Connection refused"),
        ("nonsense", "failed", "expected a database URL"),
    ],
)
def test_a_database_that_cannot_be_used_is_said_without_its_password(
    tmp_path: Path, url: str, status: str, said: str
) -> None:
    if url == "made":
        url = sqlite_url(tmp_path / "x.db")
        StudyStore(url).close()
    finding = found(url)
    assert finding.status == status
    assert said in finding.said
    assert "secret" not in str(finding.to_json())
