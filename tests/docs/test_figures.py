"""The figures that the pages show are those that the script draws."""

from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, script

PNG = b"\x89PNG"


@pytest.fixture
def figures() -> ModuleType:
    pytest.importorskip("matplotlib", reason="figures need matplotlib: the extra 'bench'")
    return script(ROOT / "docs" / "figures.py")


def test_every_figure_is_there(figures: ModuleType) -> None:
    assert {f"{name}.png" for name in figures.FIGURES} <= {path.name for path in figures.IMAGES.iterdir()}


@pytest.mark.parametrize("name", ["convergence", "timing"])
def test_figures_are_drawn(figures: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    figures.main([name])
    drawn = (tmp_path / f"{name}.png").read_bytes()
    assert drawn.startswith(PNG)
    assert len(drawn) > 10_000
