"""What is published: a wheel that is whole, and whose requirements move nobody's torch."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest
import vllm_wheel
import yaml
from helpers import ROOT
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bo_tune

pytestmark = pytest.mark.slow

HEAVY = {"torch", "triton", "vllm", "ray", "psycopg"}
DATA = ("py.typed", "tuning/bundled.json.gz")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*pip, str(ROOT)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


def metadata(wheel: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        message = HeaderParser().parsestr(archive.read(name).decode())
    return {key: message.get_all(key, []) for key in set(message.keys())}


def test_it_holds_every_module_and_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("bo_tune/")}
    files = [path for path in (ROOT / "bo_tune").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    modules = {name for name in held if not name.startswith("bo_tune/studies/")}
    assert modules == {str(path.relative_to(ROOT)) for path in files}
    assert {f"bo_tune/{name}" for name in DATA} <= held
    studies = [path for path in (ROOT / "studies").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert held - modules == {f"bo_tune/{path.relative_to(ROOT)}" for path in studies}


def test_nothing_heavy_is_required_without_an_extra(wheel: Path) -> None:
    told = metadata(wheel)
    required = [one for one in told["Requires-Dist"] if "extra ==" not in one]
    names = {re.split(r"[^A-Za-z0-9_.-]", one)[0].lower() for one in required}
    assert {"optuna", "sqlalchemy", "typer"} <= names
    assert not names & HEAVY
    assert "dev" not in told["Provides-Extra"], "tools of development are a group, which no wheel tells of"


def test_its_page_on_an_index_links_to_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode().partition("\n\n")[2]
    told = metadata(wheel)
    assert told["Description-Content-Type"] == ["text/markdown"]
    urls = dict(one.split(", ") for one in told["Project-URL"])
    home = urls["Repository"]
    assert all(url.startswith(home) for url in urls.values())
    outside = [(kind, target) for kind, target in link_targets(text) if not target.startswith("#")]
    assert [target for _, target in outside if not target.startswith("https://")] == []
    linked = [(kind, target) for kind, target in outside if target.startswith(home)]
    assert len(linked) > 20
    for kind, target in linked:
        view, branch, file = target.removeprefix(f"{home}/").partition("#")[0].split("/", 2)
        assert (view, branch) == ("raw" if kind == "image" else "blob", "main"), target
        assert (ROOT / file).exists(), target


def link_targets(text: str) -> Iterator[tuple[str, str]]:
    """Yield what the links and images of a page lead to."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or ():
            if child.type in ("link_open", "image"):
                yield child.type, str(child.attrs.get("href", child.attrs.get("src")))


def test_it_is_an_engines_plugin_and_a_program(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        points = archive.read(name).decode()
    assert "bo_tune_lookups = bo_tune.engines.vllm.observed.plugin:observe" in points
    assert "bo-tune = bo_tune.cli:main" in points


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel alone was installed into."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*pip, str(wheel)], check=True, timeout=300)
    return folder


def bo_tune_of(site: Path, folder: Path, *words: str) -> str:
    """Run the installed program in a folder that is no checkout, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "bo_tune", *words],
        cwd=folder, env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_first_commands_work_where_only_the_wheel_is(site: Path, tmp_path: Path) -> None:
    assert bo_tune_of(site, tmp_path, "studies", "llama-3.1-8b", "--out", "mine") == "wrote 2 files to mine\n"
    assert '"lora_shrink"' in bo_tune_of(site, tmp_path, "problems", "mine/llama-3.1-8b.toml", "--json", "-", "-q")


def installed_as_well(wheel: Path, folder: Path, extras: str, **versions: str) -> list[str]:
    """Return what pip would install for the wheel where distributions of some versions stand before all others.

    Nothing can be fetched, and all that the wheel requires is installed here: what pip would install besides the wheel
    would replace what is there.
    """
    for name, version in versions.items():
        told = folder / f"{name}-{version}.dist-info"
        told.mkdir(parents=True, exist_ok=True)
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*pip, f"{wheel}{extras}"],
        env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [one["metadata"]["name"] for one in json.loads(done.stdout)["install"]]


def test_it_moves_no_pinned_torch(wheel: Path, tmp_path: Path) -> None:
    assert installed_as_well(wheel, tmp_path / "vllm", "[gpu]", torch="2.14.0", triton="3.8.0") == ["bo_tune"]
    assert installed_as_well(wheel, tmp_path / "old", "", torch="2.4.0", triton="3.0.0") == ["bo_tune"]


def dry(script: str, folder: Path) -> str:
    """Run a script in a folder, its pip offline and writing nothing; returns what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, "PATH": path, "PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_install_it(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for folder in (tmp_path, tmp_path / "wheels"):
        shutil.copy(wheel, folder)
    lines = (ROOT / "examples" / "deploy" / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    (image,) = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    would = f"Would install bo_tune-{bo_tune.__version__}"
    assert dry(image, tmp_path).splitlines()[-2:] == [would, f"bo-tune {bo_tune.__version__}"]
    workflow = yaml.safe_load((ROOT / "examples" / "deploy" / "check-tuned.yml").read_text())
    (install,) = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "pip" in step.get("run", "")]
    assert dry(install, tmp_path).splitlines()[-1] == would


def test_no_requirement_conflicts_with_vllms(wheel: Path) -> None:
    pinned = {canonicalize_name(one.name): one for one in map(Requirement, vllm_wheel.requirements())}
    shared = set()
    for ours in map(Requirement, metadata(wheel)["Requires-Dist"]):
        theirs = pinned.get(canonicalize_name(ours.name))
        if theirs is not None:
            shared.add(theirs.name)
            assert not (ours.specifier & theirs.specifier).is_unsatisfiable(), f"{ours} against {theirs}"
    assert {"torch", "numpy", "pydantic", "filelock"} <= shared


def test_what_vllm_requires_is_what_its_wheel_says() -> None:
    told = vllm_wheel.requirements_of_the_wheel()
    if told is None:
        pytest.skip(f"the wheel of vLLM {vllm_wheel.VERSION} was not fetched")
    assert told == vllm_wheel.requirements()


def test_its_version_is_the_packages(wheel: Path) -> None:
    assert metadata(wheel)["Version"] == [bo_tune.__version__]
