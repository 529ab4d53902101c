"""An option of the tests of the documentation."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-docs", action="store_true", help="write what the pages' commands print today into the pages"
    )
