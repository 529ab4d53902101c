"""Packs built: budgets, journals, what a killed process leaves. Nothing is really compiled here."""

import base64
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from helpers import H100, SMALL_RANGES
from pack_samples import IDENTITY, cache_folder

from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, Resources
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config, config_key
from bo_tune.errors import PackError
from bo_tune.formats.pack.archive import read_manifest
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import Build, Compiled
from bo_tune.precompile.build import PackBudget, Packed, Workbench, build
from bo_tune.precompile.experience import Experience
from bo_tune.precompile.ranking import Likely

PROBLEM = LoraProblem("lora_shrink", 4, 1, 64, 4096, 16)

EVERYTHING = PackBudget()


def entry_name(config: object) -> str:
    digest = hashlib.sha256(repr(config).encode()).digest()
    return base64.b32encode(digest).decode().rstrip("=")


@dataclass
class FakeTarget:
    """Compiles at once, into a cache folder.

    Attributes:
        outcomes: what some configs come to instead.
        interrupt_after: compiles after which someone presses Ctrl-C.
    """

    cache: Path
    outcomes: Mapping[int, Build] = field(default_factory=dict)
    interrupt_after: int | None = None
    gpu: GpuInfo = H100
    workers: int = 2
    compiled: list[Config] = field(default_factory=list)

    def effective_configs(self, problem: LoraProblem, configs: Sequence[Config]) -> list[Config]:
        return [dict(config) for config in configs]

    def kernel_source(self, kernel: str) -> str:
        return "some code"

    def default_config(self, spec: AnySpec, problem: LoraProblem) -> dict[str, int]:
        return spec.default_config(problem)

    def key(self, problem: LoraProblem, config: Config) -> tuple[object, ...]:
        return problem.kernel, config_key(config)

    def compile(self, problem: LoraProblem, config: Config) -> Future[Build]:
        number = len(self.compiled)
        if number == self.interrupt_after:
            raise KeyboardInterrupt
        self.compiled.append(dict(config))
        future: Future[Build] = Future()
        outcome = self.outcomes.get(number)
        if outcome is None:
            entry = entry_name(config_key(config))
            files = {"k.json": b"{}", "k.cubin": b"code"}
            if not (self.cache / entry).exists():
                cache_folder(self.cache, **{entry: files})
            outcome = Compiled(Compilation(0.5), Resources(1024, 32, 0), entry)
        threading.Timer(0.001, future.set_result, [outcome]).start()
        return future


def wanted(target: FakeTarget) -> Likely:
    made = Likely(target, Experience().of, spaces=SMALL_RANGES)
    made.add(PROBLEM)
    return made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    """The workbench of a new pack."""
    with Workbench(tmp_path / "x.pack") as made:
        made.resume(IDENTITY)
        yield made


def run(bench: Workbench, target: FakeTarget, budget: PackBudget = EVERYTHING) -> list[Packed]:
    """Build, and return what was shown."""
    shown: list[Packed] = []
    build(bench, target, wanted(target), budget, shown.append)  # type: ignore[arg-type]
    return shown


def test_a_pack_without_a_budget_holds_everything(bench: Workbench) -> None:
    target = FakeTarget(bench.cache)
    shown = run(bench, target)
    everything = len(wanted(target))
    assert len(target.compiled) == len(bench.binaries) == everything
    assert len({config_key(config) for config in target.compiled}) == everything
    assert (shown[0].done, shown[0].left_s) == (0, None)
    assert (shown[-1].done, shown[-1].of, shown[-1].compiled, shown[-1].left_s) == (everything,) * 3 + (0.0,)
    bench.finish(IDENTITY, H100, "study")
    manifest = read_manifest(bench.pack)
    assert (manifest.study, manifest.gpu, manifest.identity) == ("study", H100, IDENTITY)
    assert len(manifest.binaries) == everything
    assert not bench.folder.exists()


def test_a_budget_of_configs_takes_the_first_in_order(bench: Workbench) -> None:
    target = FakeTarget(bench.cache)
    run(bench, target, PackBudget(configs=7))
    first = [w.config for w in wanted(target)][:7]
    assert sorted(map(config_key, target.compiled)) == sorted(map(config_key, first))


def test_a_budget_of_minutes_ends_it(bench: Workbench) -> None:
    target = FakeTarget(bench.cache)
    run(bench, target, PackBudget(minutes=0.0))
    assert target.compiled == []
    shown = run(bench, target, PackBudget(minutes=5.0))
    assert shown[-1].elapsed_s < 60
    assert all(s.left_s is None or s.left_s <= 300 for s in shown)


def test_what_proves_impossible_is_known_and_counts(bench: Workbench) -> None:
    slow = Invalid(InvalidReason.COMPILE_TIMEOUT, "too long", compilation=Compilation(8.0))
    large = Compiled(Compilation(0.5), Resources(H100.shared_memory_bytes + 1), entry_name(3))
    died = Invalid(InvalidReason.COMPILE_ERROR, "the compiler died: killed")
    target = FakeTarget(bench.cache, {1: slow, 2: large, 3: died})
    shown = run(bench, target, PackBudget(configs=8))
    assert len(bench.binaries) == shown[-1].done == 8
    assert len(target.compiled) == 9  # the one whose compiler was killed is not in the pack
    known = {b.reason: b for b in bench.binaries if b.reason is not None}
    assert set(known) == {InvalidReason.COMPILE_TIMEOUT, InvalidReason.OUT_OF_SHARED_MEMORY}
    assert known[InvalidReason.COMPILE_TIMEOUT].compile_s == 8.0
    assert known[InvalidReason.OUT_OF_SHARED_MEMORY].detail == "it needs 232449 B, but the GPU has 232448 B"
    assert known[InvalidReason.OUT_OF_SHARED_MEMORY].entry is None


def test_an_interrupted_pack_is_usable_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.pack"
    with Workbench(path) as bench:
        bench.resume(IDENTITY)
        with pytest.raises(KeyboardInterrupt):
            run(bench, FakeTarget(bench.cache, interrupt_after=9))
        before = len(bench.binaries)
        assert 0 < before <= 9
        bench.finish(IDENTITY, H100, "study")
    assert len(read_manifest(path).binaries) == before
    with Workbench(path) as bench:
        bench.resume(IDENTITY)
        target = FakeTarget(bench.cache)
        shown = run(bench, target)
        bench.finish(IDENTITY, H100, "study")
    assert (shown[0].done, shown[-1].compiled) == (before, len(target.compiled))
    found = [config_key(b.config) for b in read_manifest(path).binaries]
    assert len(set(found)) == len(found) == len(wanted(target))


@pytest.mark.parametrize("torn", [b"", b'{"problem": {"kern', b"\xff\x00"])
def test_a_killed_process_loses_what_was_under_way_alone(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "x.pack"
    killed = Workbench(path)
    killed.resume(IDENTITY)
    run(killed, FakeTarget(killed.cache), PackBudget(configs=6))
    killed.__exit__()  # writes nothing
    with (killed.folder / "journal.jsonl").open("ab") as journal:
        journal.write(torn)
    lost = next(b.entry for b in killed.binaries if b.entry is not None)
    for file in (killed.cache / lost).iterdir():
        file.unlink()
    (killed.cache / lost).rmdir()
    with Workbench(path) as bench:
        bench.resume(IDENTITY)
        assert bench.binaries == [b for b in killed.binaries if b.entry != lost]
        target = FakeTarget(bench.cache)
        run(bench, target)
        assert len(target.compiled) == len(wanted(target)) - 5
        bench.finish(IDENTITY, H100, "study")
    assert len(read_manifest(path).binaries) == len(wanted(target))


def test_what_was_made_for_something_else_is_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "x.pack"
    other = replace(IDENTITY, target="cuda:80")
    with Workbench(path) as bench:
        bench.resume(other)
    with (
        Workbench(path) as bench,
        pytest.raises(PackError, match=r"\.x\.pack\.work: this pack is for cuda:80, but the GPU is cuda:90"),
    ):
        bench.resume(IDENTITY)
    with Workbench(path) as bench:
        bench.resume(other)
        bench.finish(other, H100, "study")
    with (
        Workbench(path) as bench,
        pytest.raises(PackError, match=r"x\.pack: this pack is for cuda:80.*remove it, or name another"),
    ):
        bench.resume(IDENTITY)


def test_nothing_is_left_of_what_was_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "x.pack"
    path.write_bytes(b"no pack")
    with Workbench(path) as bench, pytest.raises(PackError, match="damaged, or it is not a pack"):
        bench.resume(IDENTITY)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_another_user_prepared_is_not_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in it would get into the pack."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".a.pack.work").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackError, match="belongs to another user"):
        Workbench(tmp_path / "a.pack")
    (tmp_path / ".b.pack.work").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PackError, match="belongs to another user"):
        Workbench(tmp_path / "b.pack")


def test_one_process_at_a_time(bench: Workbench) -> None:
    with pytest.raises(PackError, match="another process is compiling for this pack"):
        Workbench(bench.pack)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PackError, match=r"\.x\.pack\.work: Permission denied"):
        Workbench(tmp_path / "x.pack")
