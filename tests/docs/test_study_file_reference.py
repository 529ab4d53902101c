"""The reference of study files is what the schema says, and what it says of defaults is so."""

from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, script

from bo_tune.cli.arguments import DEFAULT_BUDGET
from bo_tune.formats.study_file import DEFAULT_RANKS, load_study_file
from bo_tune.formats.study_schema import TABLES, Budget, ModelTable, StudyTables
from bo_tune.tuning.settings import Finalists

STUDIES = sorted((ROOT / "studies").glob("*.toml"))


def generator() -> ModuleType:
    return script(ROOT / "docs" / "generate.py")


def test_the_page_is_what_the_generator_makes() -> None:
    made = generator()
    assert made.PAGE.read_text() == made.page(), "run `make docs`"


def test_every_key_has_a_meaning() -> None:
    keys = [field for table in TABLES.values() for field in table.model_fields.values()]
    assert all(field.description for field in keys)
    own = {name for name, field in StudyTables.model_fields.items() if field.description}
    assert own == set(StudyTables.model_fields) - set(TABLES)


def test_defaults_are_those_of_the_program() -> None:
    def meaning(table: type, key: str) -> str:
        return str(table.model_fields[key].description)

    assert f"Left out: {DEFAULT_BUDGET}." in meaning(Budget, "launched_configs")
    assert f"Left out: {Finalists().count}." in meaning(Budget, "finalists")
    assert DEFAULT_RANKS == (16,)
    assert "Left out: 16," in meaning(ModelTable, "ranks")


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_every_study_that_comes_along_validates(study: Path) -> None:
    assert load_study_file(study).problems()
