"""Models by their id: what is a path, what is an id, and what is said without huggingface_hub or without a network."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import ROOT

from bo_tune.engines.models.hub import model_shape
from bo_tune.errors import ModelError

CONFIG = ROOT / "studies" / "models" / "llama-3.1-8b" / "config.json"


class HubError(Exception):
    """Stands for the errors of huggingface_hub."""


def install(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    """Put a stand-in for huggingface_hub in place."""
    hub, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    names = ("EntryNotFoundError", "HfHubHTTPError", "HFValidationError")
    errors.__dict__.update(dict.fromkeys(names, HubError))
    hub.__dict__["hf_hub_download"] = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


def test_a_path_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = tmp_path / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG.read_bytes())
    assert model_shape("org/model", tmp_path).source == folder / "config.json"
    assert model_shape(str(folder)).name == "model"


@pytest.mark.parametrize("model", ["nowhere", "/no/where", "./no/where", "a/b/c", "../x"])
def test_what_cannot_be_an_id_is_a_missing_file(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # whose neighbours are known
    with pytest.raises(ModelError, match="No such file"):
        model_shape(model)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"^org/Model-1: no such file or folder; .*pip install 'bo_tune\[hub\]'$"):
        model_shape("org/Model-1")


def test_an_id_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(model: str, file: str) -> str:
        asked.append((model, file))
        return str(CONFIG)

    install(monkeypatch, download)
    shape = model_shape("meta-llama/Llama-3.1-8B")
    assert asked == [("meta-llama/Llama-3.1-8B", "config.json")]
    assert (shape.name, shape.layers()[0].shrink_k) == ("Llama-3.1-8B", 4096)


@pytest.mark.parametrize("error", [HubError("401 Client Error\n\nCannot access gated repo"), OSError("offline")])
def test_what_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(model: str, file: str) -> str:
        raise error

    install(monkeypatch, download)
    with pytest.raises(
        ModelError, match=r"^org/m: no such file or folder, and the Hugging Face hub does not provide it: (401|offline)"
    ) as caught:
        model_shape("org/m")
    assert "\n" not in str(caught.value)
