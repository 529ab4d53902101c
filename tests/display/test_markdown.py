"""The report as Markdown: keys that gain enough, with what measured them, in tables that Markdown reads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from reviewed import build

from bo_tune.analysis.review import Review
from bo_tune.analysis.review.case import Case
from bo_tune.display.markdown import markdown


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Review:
    return build(tmp_path_factory.mktemp("markdown")).review()


def written(review: Review, least: float = 0.0) -> str:
    return markdown(review, title="A | b", made=[("command", "bo-tune | x")], least_gain_percent=least)


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of every table, row by row, as a reader of Markdown understands it."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level > 2:
            found[-1][-1].append(token.content)
    return found


def test_every_key_that_gains_has_a_row_and_an_entry(review: Review) -> None:
    text = written(review)
    environment, *places = tables(text)
    assert ["command", r"bo-tune \\| x"] not in environment  # the bar is part of a cell
    assert any(row[0] == "command" for row in environment)
    rows = [row for table in places for row in table[1:]]
    done = [s for s in review.studies if s.result is not None and s.speed_up is not None and s.speed_up >= 1]
    assert len(rows) == len(done)
    entries = [json.loads(block.split("```")[0]) for block in text.split("```json")[1:]]
    configs = [config for one in entries for config in one.values()]
    assert sorted(map(str, configs)) == sorted(str(dict(study.config or {})) for study in done)
    for study in done:
        assert any(f"{study.default_us:.2f}" in row and f"{study.best_us:.2f}" in row for row in rows)


def test_keys_that_gain_less_are_left_out_and_counted(review: Review) -> None:
    most = max(study.speed_up for study in review.studies if study.speed_up)
    text = written(review, 100.0 * (most - 1.0) - 1e-6)
    assert text.count("x | ") == 1
    assert f"1 of {sum(s.speed_up is not None and s.finished for s in review.studies)} tuned keys are listed" in text
    none = written(review, 1000.0)
    assert "0 of " in none
    assert len(tables(none)) == 1


def test_disturbed_keys_are_marked(review: Review) -> None:
    case: Case = next(case for case in review.cases if case.finished and case.speed_up)
    spoilt = replace(case, studies=[replace(study, disturbed=["busy"]) for study in case.studies])
    text = written(replace(review, cases=[spoilt]))
    assert " ! |" in text
    assert "Keys marked ! were measured" in text


def test_exact_versions_are_named(review: Review, tmp_path: Path) -> None:
    environment = dict(row for row in tables(written(review))[0] if len(row) == 2)
    study = review.studies[0]
    assert study.name.gpu.replace("_", "") in environment["GPU"].replace("\\_", "")
    assert study.name.kernel_source.partition(" ")[0] in environment["kernels"].replace("\\_", "_")
