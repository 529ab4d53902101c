"""``bo-tune studies``: what comes with the package is listed and copied."""

import json
from pathlib import Path

import pytest
from helpers import ROOT, Cli

from bo_tune.formats import shipped
from bo_tune.formats.study_file import load_study_file

STUDIES = ROOT / "studies"


def test_everything_is_listed_with_what_it_is(cli: Cli) -> None:
    ran = cli("studies", "--json", "listed.json")
    assert (ran.code, ran.err) == (0, "")
    assert list(Path.cwd().iterdir()) == [Path.cwd() / "listed.json"]
    items = {item["name"]: item for item in json.loads(Path("listed.json").read_text())["items"]}
    assert {path.name for path in STUDIES.glob("*.toml")} <= set(items)
    assert {f"models/{path.name}" for path in (STUDIES / "models").iterdir()} <= set(items)
    assert items["recordings"]["about"] == "8 exhaustive grids, recorded on an H100"
    assert items["qwen2.5-14b.toml"] == {
        "name": "qwen2.5-14b.toml", "kind": "study file", "about": "Qwen2.5-14B on one GPU.",
        "files": ["qwen2.5-14b.toml", "models/qwen2.5-14b/config.json"],
    }  # fmt: skip
    assert all(item["about"] and item["name"] in ran.out for item in items.values())


def test_a_copy_brings_what_it_needs_and_works(cli: Cli) -> None:
    ran = cli("studies", "qwen3-30b-a3b-moe", "models/phi-4", "--out", "mine")
    assert (ran.code, ran.err, ran.out) == (0, "", "wrote 3 files to mine\n")
    assert load_study_file(Path("mine/qwen3-30b-a3b-moe.toml")).problems()
    assert (Path("mine/models/phi-4/config.json")).is_file()
    ran = cli("studies", "qwen3-30b-a3b-moe", "models/qwen3-30b-a3b", "--out", "mine")
    assert ran.out == "wrote 0 files to mine; 2 files were already there\n"


def test_everything_is_copied_where_nothing_is_named(cli: Cli) -> None:
    assert cli("studies", "--out", "studies").code == 0
    copied = {path.relative_to("studies") for path in Path("studies").rglob("*") if path.is_file()}
    there = {path.relative_to(STUDIES) for path in STUDIES.rglob("*") if path.is_file() and path.suffix != ".py"}
    apart = {"__pycache__", "folders"}  # tuned folders are copied by `bo-tune folders`
    assert copied == {path for path in there if not apart & set(path.parts)}


def test_what_is_there_is_never_overwritten(cli: Cli) -> None:
    Path("mine").mkdir()
    Path("mine/recorded.toml").write_text("mine")
    ran = cli("studies", "recorded", "qwen2.5-14b", "--out", "mine")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error == "mine/recorded.toml exists with other content; choose another folder"
    assert [path.name for path in Path("mine").iterdir()] == ["recorded.toml"]


def test_bad_names_and_places_are_told(cli: Cli) -> None:
    assert (
        cli("studies", "llama").error
        == "'llama': there is no such study file, model or recording; bo-tune studies lists them all"
    )
    Path("occupied").touch()
    ran = cli("studies", "recorded", "--out", "occupied")
    assert ran.code == 2
    assert ran.error.startswith("occupied")


def test_an_installation_without_them_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "bo_tune" / "formats" / "shipped.py"))
    shipped.shipped.cache_clear()
    ran = cli("studies")
    shipped.shipped.cache_clear()
    assert (ran.code, ran.error) == (2, "this installation of bo_tune has no study files")
