"""The page of supported architectures is what the table says."""

from types import ModuleType

import pytest
from helpers import ROOT, script

from bo_tune.engines.models.architectures.table import ARCHITECTURES
from bo_tune.engines.models.architectures.without_adapters import WITHOUT_ADAPTERS


@pytest.fixture(scope="module")
def made() -> ModuleType:
    return script(ROOT / "docs" / "generate_architectures.py")


def test_the_page_is_what_the_generator_makes(made: ModuleType) -> None:
    assert made.PAGE.read_text() == made.page(), "run `make docs`"


def test_every_architecture_has_its_layers(made: ModuleType) -> None:
    rows = [line for line in made.page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == sorted(ARCHITECTURES)
    assert all("proj" in row or "the model inside" in row or "out" in row for row in rows)
    assert "| `GptOssForCausalLM` | qkv_proj, o_proj, router | none | 3D | TP 1, 2, 4, 8, FS 4 |" in rows
    assert all(f"`{name}`" in made.page() for name in WITHOUT_ADAPTERS)
