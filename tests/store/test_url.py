"""What of a database's URL is never shown."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from bo_tune.errors import StorageError
from bo_tune.store.connection import database
from bo_tune.store.connection.url import shown, urls_shown, without_secrets
from bo_tune.store.storage import StudyStore

SECRET = "s3cr3t.X"

SHOWN = {
    f"postgresql+psycopg://tuner:{SECRET}@db/s?sslmode=require": "postgresql+psycopg://tuner:***@db/s?sslmode=require",
    f"postgresql+psycopg://tuner@db/s?password={SECRET}": "postgresql+psycopg://tuner@db/s?password=***",
    f"postgresql+psycopg://tuner@db/s?sslpassword={SECRET}&a=b": "postgresql+psycopg://tuner@db/s?a=b&sslpassword=***",
    f"postgresql+psycopg://tuner@db/s?passfile=/{SECRET}": "postgresql+psycopg://tuner@db/s?passfile=***",
    f"postgresql+psycopg://tuner@db/s?pass%77ord={SECRET}": "postgresql+psycopg://tuner@db/s?password=***",
    f"postgresql+psycopg://tuner@db/s?password=a&password={SECRET}": "postgresql+psycopg://tuner@db/s?password=***",
    f"mysql+pymysql://tuner@db/s?PASSWD={SECRET}": "mysql+pymysql://tuner@db/s?PASSWD=***",
    f"mssql+pyodbc:///?odbc_connect=PWD%3D{SECRET}": "mssql+pyodbc:///?odbc_connect=***",
}
"""What is shown of URLs that can be parsed."""

MALFORMED = {
    f"postgresql://tuner:pa@{SECRET}@db/s": "postgresql:***",
    f"postgresql://tuner:{SECRET}/s": "postgresql:***",
    f"postgresql:tuner:{SECRET}@db": "postgresql:***",
    f"postgresql://tuner@db/s;password={SECRET}": "postgresql:***",
    f"tuner:{SECRET}@db/s": "tuner:***",
    f"{SECRET}@db": "***",
}
"""What is shown of others: of none more than what may be its scheme."""


@pytest.mark.parametrize("url", [*SHOWN, *MALFORMED])
def test_secrets_are_hidden_wherever_they_stand(url: str) -> None:
    assert shown(url) == (SHOWN | MALFORMED)[url]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x.db", "sqlite:////tmp/a@b/passwords.db", "postgresql+psycopg://tuner@token-db:5432/passwords?a=b",
        "memory", "studies/x.db", "",
    ],
)  # fmt: skip
def test_what_holds_no_secret_is_shown_as_it_is(url: str) -> None:
    assert shown(url) == url


@given(st.text(min_size=8, max_size=20), st.sampled_from(["password", "passwd", "sslpassword", "Password", None]))
def test_no_password_is_ever_shown(secret: str, name: str | None) -> None:
    secret = f"<{secret}>"
    url = URL.create(
        "postgresql+psycopg", "tuner", None if name else secret, "db", 5432, "studies", {name: secret} if name else {}
    )
    for text in (url.render_as_string(hide_password=False), f"postgresql://tuner:{secret}@db/s"):
        assert secret not in shown(text)
        assert quote(secret) not in shown(text)


@pytest.mark.parametrize("url", [*SHOWN, *MALFORMED])
def test_no_error_tells_a_secret(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OUTAGE_S", 0.0)
    with pytest.raises(StorageError) as caught:
        StudyStore(url.replace("@db", "@127.0.0.1:1"))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_driver_says_is_told_without_secrets() -> None:
    url = "postgresql://tuner:p%40ss@db/s?sslpassword=on"
    said = "no such host: ss@db; tried p@ss, p%40ss, on; connection refused"
    assert without_secrets(said, url) == "no such host: ss@db; tried ***, ***, ***; connection refused"


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_a_url_in_a_message_is_told_without_secrets(slashes: str) -> None:
    said = f"postgresql:{slashes}tuner:{SECRET}@db/s: no such file; see https://example.org/a?b=c"
    assert SECRET not in urls_shown(said)
    assert urls_shown(said).endswith("no such file; see https://example.org/a?b=c")


@pytest.mark.parametrize("url", [url for url in SHOWN if url.startswith("postgresql")])
@pytest.mark.parametrize("around", ["{}: the database reported an error", "({}), then", "'{}'", "see {}.", "{}"])
def test_what_stands_around_a_url_stays(url: str, around: str) -> None:
    assert urls_shown(around.format(url)) == around.format(SHOWN[url])
    assert urls_shown(around.format(SHOWN[url])) == around.format(SHOWN[url])


def test_a_url_of_a_file_is_told_whole() -> None:
    for url in ("sqlite:///x.db?timeout=abc", "sqlite:////folder/x.db?timeout=abc", "sqlite:///file:x?uri=true"):
        assert urls_shown(f"{url}: no") == f"{url}: no"
