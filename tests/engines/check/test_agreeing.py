"""The experts' files agree on one block_m at every m, not only at the m that are written."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers import H100, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from tuned_folder import Documents, checked, documents, qwen, reasons, write

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.engines.check import Report, check_folder
from bo_tune.engines.check.agreeing import disagreements, runs_at_once
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.lookup import Found, lookup
from bo_tune.kernels.moe.spec import MOE_SPEC

PROBLEMS = [
    LoraProblem(name, 4, 2 if "w13" in name else 1, 16, 16, 2048, 768, experts=Experts(128, 8)) for name in MOE_SPEC
]
MOE = [f"{half}_{part}" for half in ("W13", "W2") for part in ("SHRINK", "EXPAND")]


def table(name: str) -> str:
    return f"{H100.file_name}_FUSED_MOE_LORA_{name}.json"


def with_blocks(model: ModelStudy, name: str, block_m: Mapping[int, int]) -> dict[str, Any]:
    """Return a file of the experts that holds entries at these m, of these block_m."""
    ((loras, slices),) = documents(model)[table(name)].items()
    ((count, steps),) = slices.items()
    ((k, _),) = steps["16"].items()
    ((n, sized),) = steps["16"][k].items()
    ((i, config),) = sized.items()
    return {loras: {count: {str(m): {k: {n: {i: {**config, "block_m": b}}}} for m, b in block_m.items()}}}


def check_blocks(folder: Path, blocks: Mapping[str, Mapping[int, int]], model: ModelStudy, **more: Any) -> Report:
    files = documents(model) | {table(name): with_blocks(model, name, block_m) for name, block_m in blocks.items()}
    return check_folder(write(folder, files), model, gpu=H100.name, **more)


@pytest.mark.parametrize(
    "model",
    [qwen(), qwen(256), qwen(tensor_parallel=2, fully_sharded=True)],
    ids=["one launch", "two kernels", "fully sharded"],
)
def test_files_that_agree_at_all_written_m_may_differ_between(tmp_path: Path, model: ModelStudy) -> None:
    """From 16 to 256 the nearest key changes at 137, from 17 to 257 at 138: at 137 alone w2 takes another block_m."""
    w13, w2 = {16: 16, 256: 64}, {17: 16, 257: 64}
    blocks = {"W13_SHRINK": w13, "W13_EXPAND": w13, "W2_SHRINK": w2, "W2_EXPAND": w2}
    report = check_blocks(tmp_path, blocks, model)
    assert {fault.file for fault in report.faults} == {table("W2_SHRINK"), table("W2_EXPAND")}
    at_once = runs_at_once(next(problem for problem in model.problems_by_layer() if "moe" in problem.kernel))
    for fault, met in report.faults.items():
        assert fault.place.split("/")[2] == "17"
        assert [item.problem.m for item in met] == [137]
        where, consequence = fault.reason.split(": ")
        assert where == "block_m 16 at m 137, where fused_moe_lora_w13_shrink has 64"
        assert consequence == (
            "one launch takes only the shrink kernel's block_m, which is just as wrong"
            if at_once and "EXPAND" in fault.file
            else "tokens are sorted by the latter, so the output is silently wrong"
        )
    assert not check_blocks(tmp_path, blocks, model, ms=[16, 17, 136, 138, 256, 257]).faults
    assert not check_blocks(tmp_path, blocks | {"W13_SHRINK": w2, "W13_EXPAND": w2}, model).faults


def test_files_of_packed_gate_and_up_are_compared_under_keys_of_their_own(tmp_path: Path) -> None:
    """Their w13 has one slice, and an i that is twice w2's."""
    gpt = ModelStudy.of(
        str(ROOT / "studies" / "models" / "gpt-oss-20b"), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[16],
        target_modules=["o_proj", "experts"],
    )  # fmt: skip
    alike = {name: {16: 64, 256: 32} for name in MOE}
    assert not [line for line in reasons(check_blocks(tmp_path, alike, gpt)) if "block_m" in line]
    found = reasons(check_blocks(tmp_path, alike | {"W2_SHRINK": {16: 64}}, gpt))
    assert len(found) == 1
    assert "block_m 64 at m 137 to 8192, where fused_moe_lora_w13_shrink has 32" in found[0]


@pytest.mark.parametrize(
    ("rank", "consequence"),
    [
        (256, "the engine stops"),
        (
            16,
            "an engine that runs shrink and expand separately stops; an engine that runs them in one launch takes "
            "only the shrink kernel's block_m",
        ),
    ],
)
def test_an_expand_apart_from_its_shrink(tmp_path: Path, rank: int, consequence: str) -> None:
    report = check_blocks(tmp_path, {"W2_EXPAND": {16: 64, 256: 16}}, qwen(rank))
    (fault,) = report.faults
    assert fault.file == table("W2_EXPAND")
    assert fault.reason == f"block_m 16 at m 137 to 8192, where fused_moe_lora_w13_shrink has 64: {consequence}"


def test_a_missing_file_is_its_default_and_has_to_agree_too(tmp_path: Path) -> None:
    def change(files: Documents) -> None:
        for name in MOE:
            files[table(name)] = with_blocks(qwen(), name, {16: 16})
        del files[table("W2_SHRINK")]

    found = reasons(checked(tmp_path, change, qwen()))
    assert len(found) == 2
    assert found[0].startswith(f"{table('W2_SHRINK')} : the file does not exist: ")
    assert found[1].startswith(
        f"{table('W2_SHRINK')} : block_m 64 at m 1 to 8192, where fused_moe_lora_w13_shrink has 16"
    )


def test_names_in_capitals_and_names_left_out_are_read_as_the_engine_does(tmp_path: Path) -> None:
    def change(files: Documents) -> None:
        for m in ("16", "256"):
            files[table("W2_EXPAND")]["4"]["1"][m]["16"]["2048"]["768"] = {"BLOCK_SIZE_M": 64, "NUM_WARPS": 8}

    assert not checked(tmp_path, change, qwen()).faults


LARGEST = 60
BLOCKS = st.dictionaries(st.integers(1, LARGEST + 20), st.sampled_from((16, 64)), min_size=1, max_size=5)


def numbers(text: str) -> Iterable[int]:
    for span in text.split(", "):
        first, _, last = span.partition(" to ")
        yield from range(int(first), int(last or first) + 1)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[BLOCKS] * 4))
def test_what_is_said_of_every_m_is_what_looking_each_up_finds(blocks: tuple[dict[int, int], ...]) -> None:
    model = qwen(256)
    files = {name: with_blocks(model, name, block_m) for name, block_m in zip(MOE, blocks, strict=True)}

    def block_m(name: str, m: int) -> int:
        asked = {"max_loras": 4, "num_slices": 2 if "W13" in name else 1, "m": m, "k": 256, "n": 2048, "i": 768}
        found = lookup(files[name], asked)
        assert isinstance(found, Found)
        value: int = found.config["block_m"]
        return value

    wrong = {(name, m) for m in range(1, LARGEST + 1) for name in MOE if block_m(name, m) != block_m("W13_SHRINK", m)}
    with TemporaryDirectory() as folder:
        others = {table(name): content for name, content in files.items()}
        report = check_folder(
            write(Path(folder), documents(model) | others), model, gpu=H100.name, max_batched_tokens=LARGEST
        )
    said = {
        (name, m)
        for fault in report.faults
        for name in MOE
        if fault.file == table(name)
        for m in numbers(fault.reason.partition(" at m ")[2].partition(", where")[0])
    }
    assert said == wrong


@pytest.mark.parametrize(
    ("rank", "shards", "at_once"), [(16, 1, True), (128, 1, True), (256, 1, False), (16, 2, False)]
)
def test_one_launch_up_to_rank_128_unless_fully_sharded(rank: int, shards: int, at_once: bool) -> None:
    experts = Experts(128, 8, shards=shards)
    for problem in PROBLEMS:
        k = rank // shards if "w13" in problem.kernel else rank
        assert runs_at_once(replace(problem, k=k, experts=experts)) is at_once
    assert not runs_at_once(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16))


def test_the_first_kernel_decides() -> None:
    found = dict.fromkeys(PROBLEMS, 16)
    assert disagreements(found) == {}
    found[PROBLEMS[0]] = 32
    wrong = disagreements(found)
    assert set(wrong) == set(PROBLEMS[1:])
    assert {(one.value, one.first, one.expected) for one in wrong.values()} == {(16, PROBLEMS[0].kernel, 32)}
    assert [wrong[problem].consequence.split()[0] for problem in PROBLEMS[1:]] == ["an", "tokens", "one"]
    other = [replace(problem, m=64) for problem in PROBLEMS[:2]]
    assert not set(other) & set(disagreements({**found, **dict.fromkeys(other, 64)}))


def test_kernels_that_stand_alone_are_passed_over() -> None:
    dense = [LoraProblem("lora_shrink", 4, 1, m, 4096, 16) for m in (1, 2)]
    assert disagreements({problem: 16 * problem.m for problem in dense}) == {}
