"""Packs made for sm_90 on a machine without a GPU, and used by other processes, from another folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import H100

from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import LoraProblem
from bo_tune.errors import PackError
from bo_tune.formats.pack.archive import files_of, read_manifest, write_pack
from bo_tune.formats.pack.contents import Manifest, PackedBinary
from bo_tune.formats.pack.identity import Identity
from bo_tune.measure.compile import packed
from bo_tune.measure.compile.compilers import Compilers
from bo_tune.measure.compile.farm import CompileFarm
from bo_tune.measure.compile.host import CompileHost
from bo_tune.measure.compile.packed import PackedBinaries
from bo_tune.measure.compile.times import CompileTimes
from bo_tune.measure.device import Compiled
from bo_tune.measure.devices import compilers_for
from bo_tune.measure.source import BUILTIN
from bo_tune.processes.fork_server import ForkServer

pytestmark = pytest.mark.slow

SHRINK = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
SAME_BINARY = replace(SHRINK, m=512, max_loras=7)
EXPAND = LoraProblem("lora_expand", 4, 1, 16, 16, 4096, add_inputs=True)
TILE = {"block_m": 16, "block_n": 32, "block_k": 32, "num_warps": 4, "num_stages": 2, "num_ctas": 1}
CONFIG = {**TILE, "split_k": 8}
BROKEN = {**CONFIG, "block_m": 17}
WANTED = [(SHRINK, CONFIG), (SHRINK, {**CONFIG, "split_k": 16}), (EXPAND, TILE)]
EXAMPLES: dict[str, tuple[LoraProblem, dict[str, int]]] = {
    "lora_shrink": (SHRINK, CONFIG),
    "lora_expand": (EXPAND, TILE),
}
LONG_S = 120.0


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of three binaries and a failure, whose cache is gone."""
    folder = tmp_path_factory.mktemp("made")
    cache = folder / "cache"
    with compilers_for(H100, BUILTIN, cache=cache, workers=1, deadline_s=LONG_S, conditions=Conditions()) as target:
        identity = target.identity(EXAMPLES)
        binaries = []
        for problem, config in WANTED:
            build = target.compile(problem, config).result(LONG_S)
            assert isinstance(build, Compiled)
            assert build.entry is not None
            assert not build.compilation.cached
            files = files_of(cache / build.entry)
            binaries.append(PackedBinary(problem, config, 0.25, build.resources, 1, build.entry, files))
    binaries.append(PackedBinary(SHRINK, BROKEN, 0.5, reason=InvalidReason.COMPILE_ERROR, detail="no"))
    path = folder / "x.pack"
    write_pack(path, Manifest(identity, H100, "s", tuple(binaries)), cache)
    cache.rename(folder / "moved")
    return path


def unpacked(*packs: Path) -> PackedBinaries:
    """Have packs unpacked for processes."""
    made = PackedBinaries(packs)
    made.unpack()
    return made


@pytest.fixture(scope="module")
def server(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ForkServer, PackedBinaries]]:
    """Forks compilers that find the pack's binaries, and keep their own in an empty cache."""
    binaries = unpacked(pack)
    own = tmp_path_factory.mktemp("own")
    made = ForkServer(
        ["bo_tune.measure.compile.worker", BUILTIN], {**binaries.environment, "TRITON_CACHE_DIR": str(own)}
    )
    yield made, binaries
    made.close()
    binaries.close()


@pytest.fixture
def farm(server: tuple[ForkServer, PackedBinaries]) -> Iterator[CompileFarm]:
    """A farm of fresh workers."""
    made = CompileFarm(server[0], H100, BUILTIN, workers=1, times=CompileTimes(LONG_S))
    yield made
    made.close()


def number(farm: CompileFarm, problem: LoraProblem, config: Mapping[str, int]) -> int:
    return Compilers(farm, H100).key(problem, config)


def test_another_process_finds_every_binary_and_compiles_nothing(
    farm: CompileFarm, server: tuple[ForkServer, PackedBinaries]
) -> None:
    for problem, config in [*WANTED, (SAME_BINARY, CONFIG)]:  # not taught: the workers are asked
        build = farm.submit(farm.number((problem, tuple(config.items()))), problem, config).result(LONG_S)
        assert isinstance(build, Compiled)
        assert build.compilation.cached
        assert build.resources.registers_per_thread
    assert (farm.activity.compiles, farm.activity.cached) == (0, 4)


def test_what_a_pack_lacks_is_compiled_into_the_hosts_own_cache(
    farm: CompileFarm, server: tuple[ForkServer, PackedBinaries], tmp_path: Path
) -> None:
    config = {**CONFIG, "split_k": 32}
    build = farm.submit(number(farm, SHRINK, config), SHRINK, config).result(LONG_S)
    assert isinstance(build, Compiled)
    assert not build.compilation.cached
    place = Path(server[1].environment["BO_TUNE_PACKED"])
    assert len([p for p in place.iterdir() if p.name == build.entry]) == 0
    assert len(list(place.iterdir())) == len(WANTED)


def test_a_taught_farm_has_the_binaries_and_answers_at_once(
    farm: CompileFarm, server: tuple[ForkServer, PackedBinaries]
) -> None:
    server[1].teach(Compilers(farm, H100))
    asked = [*WANTED, (SAME_BINARY, CONFIG), (SHRINK, BROKEN), (SHRINK, {**CONFIG, "split_k": 4})]
    numbers = np.array([number(farm, problem, config) for problem, config in asked])
    assert farm.has(numbers).tolist() == [True] * 5 + [False]
    farm._workers[0].kill()
    builds = [farm.submit(n, *wanted) for n, wanted in zip(numbers[:5], asked, strict=False)]
    assert all(build.done() for build in builds)
    assert farm._workers[0].pid is None
    there, failed = [build.result() for build in builds[:4]], builds[4].result()
    for build in there:
        assert isinstance(build, Compiled)
        assert build.compilation.cached
        assert build.compilation.compile_s == 0
    assert isinstance(failed, Invalid)
    assert (failed.reason, failed.detail, failed.compilation.cached) == (InvalidReason.COMPILE_ERROR, "no", True)
    activity = farm.activity
    assert (activity.packed, activity.packed_s, activity.shared, activity.compiles) == (4, 1.25, 1, 0)


def rewritten(pack: Path, folder: Path, change: Callable[[Identity], Identity]) -> Path:
    """Return the pack as if it had been made elsewhere: its failure alone, which needs no files."""
    manifest = read_manifest(pack)
    path = folder / "other.pack"
    write_pack(path, replace(manifest, identity=change(manifest.identity), binaries=manifest.binaries[-1:]), folder)
    return path


def tools(**changes: object) -> Callable[[Identity], Identity]:
    return lambda identity: replace(identity, toolchain=replace(identity.toolchain, **changes))


def text(**changes: str) -> Callable[[Identity], Identity]:
    def change(identity: Identity) -> Identity:
        shrink = replace(identity.kernels["lora_shrink"], **changes)
        return replace(identity, kernels={**identity.kernels, "lora_shrink": shrink})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (tools(python="CPython 3.99"), "was made with CPython 3.99, but this host has "),
        (tools(triton="2.0.0"), "was made with Triton 2.0.0, but this host has "),
        (tools(triton_build="0"), "was made with the Triton build 0, but this host has "),
        (tools(ptxas="9.9"), "was made with ptxas 9.9, but this host has "),
        (
            tools(environment={"TRITON_DISABLE_LINE_INFO": "true"}),
            "was made with TRITON_DISABLE_LINE_INFO=true, but",
        ),
        (lambda i: replace(i, target="cuda:80"), "is for cuda:80, but the GPU is cuda:90"),
        (
            lambda i: replace(i, module="vllm"),
            "holds kernels from vllm, but the session's are from bo_tune.kernels.operations",
        ),
        (text(source="bo_tune 0"), "holds lora_shrink of bo_tune 0, but this host has bo_tune "),
        (text(digest="0"), "holds lora_shrink with the text 0, but this host has "),
    ],
)
def test_what_does_not_fit_is_refused_with_the_difference(
    farm: CompileFarm, pack: Path, tmp_path: Path, change: Callable[[Identity], Identity], words: str
) -> None:
    path = rewritten(pack, tmp_path, change)
    binaries = unpacked(path)
    try:
        with pytest.raises(PackError) as caught:
            binaries.teach(Compilers(farm, H100))
        assert str(caught.value).startswith(f"{path}: this pack {words}")
        assert "\n" not in str(caught.value)
        assert farm.activity.packed == 0
    finally:
        binaries.close()


def test_binaries_that_triton_does_not_find_are_refused_though_all_is_said_to_fit(
    farm: CompileFarm, pack: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(pack)
    strange = replace(manifest.binaries[0], config={**CONFIG, "num_warps": 2})
    path = tmp_path / "strange.pack"
    write_pack(path, replace(manifest, binaries=(strange,)), pack.parent / "moved")
    binaries = unpacked(path)
    try:
        with pytest.raises(PackError, match="Triton would not use this pack's binary"):
            binaries.teach(Compilers(farm, H100))
    finally:
        binaries.close()


def test_a_probe_that_kills_the_compiler_refuses_the_pack(
    farm: CompileFarm, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "PROBE_TIMEOUT_S", 0.0)
    binaries = unpacked(pack)
    try:
        with pytest.raises(PackError, match=r"x\.pack: no answer came within 0 s"):
            binaries.teach(Compilers(farm, H100))
    finally:
        binaries.close()


def test_several_packs_and_none(pack: Path, tmp_path: Path) -> None:
    other = rewritten(pack, tmp_path, lambda identity: identity)
    both, none = unpacked(other, pack), unpacked()
    place = Path(both.environment["BO_TUNE_PACKED"])
    assert len(list(place.iterdir())) == len(WANTED)
    both.close()
    assert not place.exists()
    assert none.environment == {}
    none.close()


def test_a_damaged_pack_leaves_nothing_behind(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    bad = tmp_path / "bad.pack"
    bad.write_bytes(pack.read_bytes()[:-1000])
    with pytest.raises(PackError, match="damaged"):
        CompileHost(["bo_tune.measure.compile.worker"], {}, BUILTIN, workers=1, deadline_s=1.0, packs=[pack, bad])
    assert list((tmp_path / "temporary").iterdir()) == []
