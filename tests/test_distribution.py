"""What is published: a wheel that is whole, and whose requirements move nobody's torch."""

import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from helpers import ROOT

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
    assert held == {str(path.relative_to(ROOT)) for path in files}
    assert {f"bo_tune/{name}" for name in DATA} <= held


def test_nothing_heavy_is_required_without_an_extra(wheel: Path) -> None:
    told = metadata(wheel)
    required = [one for one in told["Requires-Dist"] if "extra ==" not in one]
    names = {re.split(r"[^A-Za-z0-9_.-]", one)[0].lower() for one in required}
    assert {"optuna", "sqlalchemy", "typer"} <= names
    assert not names & HEAVY
    assert "dev" not in told["Provides-Extra"], "tools of development are a group, which no wheel tells of"


def test_it_is_an_engines_plugin_and_a_program(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        points = archive.read(name).decode()
    assert "bo_tune_lookups = bo_tune.engines.vllm.observed.plugin:observe" in points
    assert "bo-tune = bo_tune.cli:main" in points


def test_its_first_command_works_where_only_the_wheel_is(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*pip, str(wheel)], check=True, timeout=300)
    model = ROOT / "studies" / "models" / "llama-3.1-8b"
    words = ["problems", "--model", str(model), "--max-loras", "4", "--rank", "16", "--m", "16", "--json", "-", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "bo_tune", *words],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"lora_shrink"' in done.stdout


def test_its_version_is_the_packages(wheel: Path) -> None:
    assert metadata(wheel)["Version"] == [bo_tune.__version__]
