"""Databases' URLs as they may be shown: without anything that a driver takes for a secret."""

import re
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

HIDDEN = "***"

_SECRET = re.compile(r"pass|pwd|secret|token|odbc_connect", re.IGNORECASE)
"""Found in the names of parameters that hold secrets: those of libpq (password, passfile, sslpassword,
oauth_client_secret), and those of drivers of databases that are refused but whose URLs are shown all the same (passwd;
for ODBC, the whole text is one parameter)."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_PATH = re.compile(r"[\w./ -]*")
"""A text that is no URL, and cannot hold a secret either."""
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,3}[^\s'\"]*[@?][^\s'\"]*?(?=[:;,.)\]]*(?:[\s'\"]|$))")
"""A URL in a text, if it may hold a secret. A path has lost one of its slashes. Punctuation that ends a clause does not
belong to it."""


def parsed(url: str) -> URL:
    """Parse a URL.

    Raises:
        ArgumentError: it is no URL, or the part about a server can be read in more than one way.
    """
    try:
        found = make_url(url)
    except ValueError:  # the port is no number: it may be a password whose host is missing
        raise ArgumentError("the port is not a number") from None
    if found.get_backend_name() == "sqlite":
        return found
    if url.count("@") > 1 or any(_SECRET.search(part) for part in re.findall(r"([^;/?&]*)=", found.database or "")):
        raise ArgumentError(
            "special characters in a user name, a password or a database's name must be percent-encoded"
        )
    return found


def shown(url: str) -> str:
    """Return a URL as it may be shown. If it cannot be parsed, that is at most its scheme."""
    if _PATH.fullmatch(url):
        return url
    try:
        found = parsed(url)
    except ArgumentError:
        scheme = _SCHEME.match(url)
        return f"{scheme[0]}:{HIDDEN}" if scheme else HIDDEN
    query = {name: HIDDEN if _SECRET.search(name) else value for name, value in found.query.items()}
    if found.password is None and query == dict(found.query):
        return url
    return found.set(query=query).render_as_string(hide_password=True).replace(quote_plus(HIDDEN), HIDDEN)


def without_secrets(text: str, url: str) -> str:
    """Return a driver's message about a URL, without the URL's secrets."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", HIDDEN, text)
    return text


def urls_shown(text: str) -> str:
    """Hide the secrets of every URL in a text, for example of one that a user took for a file."""

    def replaced(match: re.Match[str]) -> str:
        scheme, _, rest = match[0].partition(":")
        url = match[0] if rest.startswith("//") else f"{scheme}:/{rest}"
        return shown(url) if HIDDEN in shown(url) else match[0]

    return _IN_TEXT.sub(replaced, text)


def _secrets(url: str) -> set[str]:
    try:
        found = parsed(url)
    except ArgumentError:
        return {url} - {shown(url)}
    secrets = {str(found.password)} if found.password else set()
    for name, value in found.query.items():
        if _SECRET.search(name):
            secrets.update([value] if isinstance(value, str) else value)
    return secrets - {""}
