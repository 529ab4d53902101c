"""What adapters add to a step: with the configs of an untuned engine and of a folder, on one stream and on two."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import BARE_US, H100, ROOT, FakeDevice

from bo_tune.analysis.step import Decoder, LayerTimes, StepReport, timed
from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config
from bo_tune.core.surroundings import Mixture
from bo_tune.display.step import step_lines
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.file_names import table_file_name
from bo_tune.errors import DeviceError, InputError
from bo_tune.kernels.moe.spec import ONE_LAUNCH_SPECS
from bo_tune.kernels.registry import engine_spec, kernel_spec

MODELS = ROOT / "studies" / "models"
MS = (1, 64)


def model(name: str = "llama-3.1-8b", **more: object) -> ModelStudy:
    served: dict[str, object] = {"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": MS, **more}
    return ModelStudy.of(str(MODELS / name), **served)  # type: ignore[arg-type]


def folder_of(path: Path, study: ModelStudy, block_m: int) -> Path:
    """Write every entry that a model looks up, with defaults but for block_m."""
    files: dict[str, dict[str, object]] = {}
    for problem in study.problems_by_layer():
        spec = engine_spec(problem.kernel)
        level = files.setdefault(table_file_name(H100.file_name, spec.file_stem(problem)), {})
        *above, last = spec.table_key(problem)
        for key in above:
            level = level.setdefault(key, {})  # type: ignore[assignment]
        level[last] = {**spec.default_config(problem), "block_m": block_m}
    path.mkdir()
    for name, document in files.items():
        (path / name).write_text(json.dumps(document))
    return path


def block_m(config: Config) -> float:
    return float(config["block_m"])


@contextmanager
def gpu(conditions: Conditions) -> Iterator[FakeDevice]:
    """A GPU on which a kernel takes as many us as its block_m says, and two streams hide half of it."""
    share = 0.5 if conditions.dual_stream else 1.0
    space = kernel_spec("lora_shrink").search_space
    yield FakeDevice(lambda config: 5.0, space, in_place=lambda config: share * block_m(config), times_in_place=True)


def decoders(study: ModelStudy, folder: Path | None) -> list[Decoder]:
    return [Decoder(replace(study, dual_stream=two), folder) for two in (False, True)]


def test_each_way_is_timed_untuned_and_with_the_folder(tmp_path: Path) -> None:
    tuned = folder_of(tmp_path / "tuned", model(), 16)
    overwriting = table_file_name(H100.file_name, "EXPAND_FALSE")
    (folder_of(tmp_path / "two", model(dual_stream=True), 16) / overwriting).rename(tuned / overwriting)
    report = timed(decoders(model(), tuned), gpu)
    assert report.lacking == {}
    untuned_us = sum(
        block_m(kernel_spec(problem.kernel).default_config(problem))
        for linear in Decoder(model(), None).layers
        for problem in linear.kernels(Decoder(model(), None).batch(1))
    )
    assert report.times[1][False] == LayerTimes(4 * BARE_US, 4 * BARE_US + untuned_us, 4 * BARE_US + 8 * 16, None)
    assert report.times[64][True].tuned_us == 4 * BARE_US + 8 * 8
    assert report.faster_on_two == [1, 64]
    assert report.layers == 32
    assert "VLLM_LORA_ENABLE_DUAL_STREAM=1 is faster at every measured m" in step_lines(report)
    assert StepReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    steps = report.to_json()["steps"]
    assert [(step["m"], step["streams"]) for step in steps] == [(1, "one"), (1, "two"), (64, "one"), (64, "two")]


def test_a_way_that_the_folder_does_not_serve_is_timed_untuned_and_says_so(tmp_path: Path) -> None:
    tuned = folder_of(tmp_path / "tuned", model(), 16)
    report = timed(decoders(model(), tuned), gpu)
    assert report.times[1][False].tuned_us is not None
    assert report.times[1][True].tuned_us is None
    (lacking,) = report.lacking.values()
    assert "EXPAND_FALSE" in lacking
    assert any(line.startswith("two streams without the folder: ") for line in step_lines(report))


class OneLaunch(FakeDevice):
    """A GPU whose engine launches one kernel for each product of experts."""

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        return tuple(spec.name for spec in ONE_LAUNCH_SPECS) if problem.experts else ()


@pytest.mark.parametrize(("kind", "launched"), [(FakeDevice, 4), (OneLaunch, 2)])
def test_experts_are_timed_as_the_engine_launches_them(kind: type[FakeDevice], launched: int, tmp_path: Path) -> None:
    study = model("qwen3-30b-a3b", ms=(64,))
    tuned = folder_of(tmp_path / "tuned", study, 128)
    space = kernel_spec("lora_shrink").search_space

    @contextmanager
    def opened(conditions: Conditions) -> Iterator[FakeDevice]:
        yield kind(lambda config: 5.0, space, in_place=block_m, times_in_place=True)

    report = timed([Decoder(study, tuned)], opened)
    assert [layer for layer in Decoder(study, tuned).layers if isinstance(layer, Mixture)]
    linears = 3
    assert report.times[64][False].tuned_us == (linears + 1) * BARE_US + 128 * (2 * linears + launched)
    assert report.layers == 48


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (model("mixtral-8x7b", target_modules=["experts"]), "qkv_proj, o_proj, gate and experts, each with adapters"),
        (model(target_modules=["qkv_proj"]), "some that take no adapters"),
        (model(ranks=[16, 32]), "one value of each"),
        (model(tensor_parallel=2, fully_sharded=True), "fully sharded"),
    ],
)
def test_what_cannot_be_timed_is_refused(study: ModelStudy, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Decoder(study, None).check()


def test_a_config_that_does_not_compile_ends_it() -> None:
    @contextmanager
    def broken(conditions: Conditions) -> Iterator[FakeDevice]:
        invalid = Invalid(InvalidReason.COMPILE_ERROR, "no such instruction")
        yield FakeDevice(lambda config: invalid, kernel_spec("lora_shrink").search_space)

    with pytest.raises(DeviceError, match="no such instruction"):
        timed([Decoder(model(), None)], broken)


def report_of(python_us: Mapping[int, float]) -> StepReport:
    times = {m: {False: LayerTimes(50.0, 100.0, 80.0, one)} for m, one in python_us.items()}
    return StepReport("a", "b", 2, None, times, {})


def test_where_python_is_what_a_step_waits_for() -> None:
    report = report_of({1: 90.0, 64: 81.0, 512: 70.0})
    assert report.python_bound == [1, 64]
    assert "up to m 64" in step_lines(report)[0]
    assert "512 tokens or more" in step_lines(report)[0]
    assert step_lines(report_of({1: 20.0})) == []
