"""``bo-tune tune --streams``: each way by itself, and both with one shrink."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from helpers import BUNDLED, ROOT, Cli, FakeDevice

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.spec import AnySpec
from bo_tune.session.workers.measuring import Measured

LLAMA = ROOT / "studies" / "models" / "llama-3.1-8b"
SERVED = ("--model", LLAMA, "--max-loras", 4, "--rank", 16, "--m", 16, "--target-modules", "o_proj,down_proj")
STUDY = f"""name = "x"
[model]
config = "{LLAMA}/config.json"
tensor_parallel = 1
ranks = [16]
max_loras = [4]
m = [16]
target_modules = ["o_proj", "down_proj"]
"""
BOTH = ("tune", *SERVED, "--streams", "both")


class Gpu(FakeDevice):
    """A GPU where a wide block_k is best behind the base layer, a narrow one beside it, one between for both."""

    compile_workers = 2
    ADDED: ClassVar = {False: {32: 9.0, 64: 4.0, 128: 3.0}, True: {32: 3.0, 64: 4.0, 128: 9.0}}

    def __init__(self, measured: Measured) -> None:
        added = self.ADDED[measured.conditions.dual_stream]

        def in_place(config: Config) -> float:
            return added.get(config["block_k"], 10.0)

        super().__init__(lambda config: 5.0 + config["block_k"] / 1e3, SearchSpace(()), in_place=in_place)
        self.times_in_place = True
        self.conditions = measured.conditions

    def search_space(self, spec: AnySpec, problem: LoraProblem) -> SearchSpace:
        one = {name: (value,) for name, value in spec.default_config(problem).items()}
        return SearchSpace.of({**one, "block_k": (32, 64, 128, 256)})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, nothing_is_forked: None) -> None:
    """A host with that GPU."""

    @contextmanager
    def opened(measured: Measured, host: object = None) -> Iterator[list[Gpu]]:
        yield [Gpu(measured)]

    monkeypatch.setattr("bo_tune.cli.tuning.opened", opened)
    monkeypatch.setattr("bo_tune.cli.both_streams.opened", opened)


def leaves(level: object) -> Iterator[dict[str, int]]:
    if isinstance(level, dict) and "block_k" in level:
        yield level
    elif isinstance(level, dict):
        for below in level.values():
            yield from leaves(below)


def block_ks(folder: Path, stem: str) -> set[int]:
    (path,) = folder.glob(f"*_{stem}.json")
    return {config["block_k"] for config in leaves(json.loads(path.read_text()))}


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_both_ways_get_one_shrink_and_an_expand_each(cli: Cli) -> None:
    ran = cli(*BOTH, "--storage", "memory", "--kernels", "builtin", "--json", "both.json")
    assert (ran.code, ran.err) == (0, "")
    tuned = Path("tuned")
    assert block_ks(tuned, "SHRINK") == {64}
    assert block_ks(tuned, "EXPAND_TRUE") == {128}
    assert block_ks(tuned, "EXPAND_FALSE") == {32}
    assert "2 shrink configs serve both ways: on one stream, a layer takes 1.00 us longer" in ran.out
    document = json.loads(Path("both.json").read_text())
    assert {"studies", "session", "written", "two_streams", "shrink"} < document.keys()
    assert document["two_streams"].keys() == document.keys() - {"command", "version", "two_streams", "shrink"}
    assert [item["config"]["block_k"] for item in document["shrink"]] == [64, 64]
    (sidecar,) = tuned.glob("*_SHRINK.provenance.json")
    for entry in json.loads(sidecar.read_text())["entries"].values():
        assert entry["config"]["block_k"] == 64
        assert entry["time_us"] == pytest.approx(5.064)
        assert entry["in_place"]["streams"]["two"] == {"layer_us": 24.0, "least_us": 23.0}


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("way", [("--streams", "two"), ("--dual-stream",)], ids="".join)
def test_two_streams_alone_have_two_names(cli: Cli, way: tuple[str, ...]) -> None:
    ran = cli("tune", *SERVED, *way, "--storage", "memory", "--kernels", "builtin")
    assert (ran.code, ran.err) == (0, "")
    assert block_ks(Path("tuned"), "SHRINK") == block_ks(Path("tuned"), "EXPAND_FALSE") == {32}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tune", "--streams", "both", "--device", f"replay:{BUNDLED}"), "needs a model and a GPU"),
        ((*BOTH, "--device", f"replay:{BUNDLED}"), "needs a model and a GPU"),
        ((*BOTH, "--race", "alone"), "needs --race in-place"),
        ((*BOTH, "--workers", 2), "does not work with several workers"),
        (
            ("tune", *SERVED[:6], "--m", "auto", "--streams", "both"),
            "does not work with several workers or with --m auto",
        ),
        ((*BOTH, "--dual-stream"), "cannot be combined with --streams"),
        (("tune", "--streams", "two", "--device", f"replay:{BUNDLED}"), "--streams needs a model"),
        (("tune", "adds.toml", "--streams", "two"), "cannot be combined with model.add_inputs"),
    ],
)
def test_what_cannot_be_tuned_both_ways_is_refused_in_a_line(
    cli: Cli, arguments: tuple[object, ...], said: str
) -> None:
    Path("adds.toml").write_text(f"{STUDY}add_inputs = true\n")
    assert said in cli(*arguments).error
    assert [path.name for path in Path().iterdir()] == ["adds.toml"]


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("says", "streams", "best"), [(True, None, 32), (True, "one", 128), (False, "two", 32)])
def test_a_study_file_says_which_way_unless_the_command_line_does(
    cli: Cli, says: bool, streams: str | None, best: int
) -> None:
    Path("study.toml").write_text(f"{STUDY}dual_stream = {str(says).lower()}\n")
    asked = ("--streams", streams) if streams else ()
    ran = cli("tune", "study.toml", *asked, "--storage", "memory", "--kernels", "builtin")
    assert (ran.code, ran.err) == (0, "")
    assert block_ks(Path("tuned"), "SHRINK") == {best}


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_a_mix_of_adapters_is_told_by_number(cli: Cli) -> None:
    ran = cli("tune", *SERVED, "--active-loras", "1,4", "--storage", "memory", "--kernels", "builtin")
    assert (ran.code, ran.err) == (0, "")
    assert "by the number of active adapters in a step: 1 active: " in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tune", "--device", f"replay:{BUNDLED}", "--active-loras", "1,4"), "needs a model"),
        (("tune", *SERVED, "--race", "alone", "--active-loras", "1,4"), "no --race alone"),
        (("tune", *SERVED, "--active-loras", "1,8"), "expected at most --max-loras 4, got 8"),
        (("tune", *SERVED, "--active-loras", "0"), "expected integers from 1"),
    ],
)
def test_a_mix_that_cannot_be_run_is_refused_in_a_line(cli: Cli, arguments: tuple[object, ...], said: str) -> None:
    assert said in cli(*arguments).error
