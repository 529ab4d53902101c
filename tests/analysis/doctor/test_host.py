"""What the doctor says of the host without a process of its own."""

from importlib import metadata

import pytest

from bo_tune.analysis.doctor import Status, host


def test_a_source_tree_that_is_not_installed_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    finding = host.program()
    assert finding.status is Status.OK
    assert finding.said.startswith("of a source tree, Python 3.")
