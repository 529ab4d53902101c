"""Problems and GPUs: validation, labels, file names."""

import json
from dataclasses import asdict, replace
from itertools import combinations

import pytest

from bo_tune.core.problem import Experts, GpuInfo, LoraProblem, Problem, SizedProblem, lora, problem_from_json

PROBLEM = LoraProblem("lora_expand", 4, 3, 16, 64, 4096, slice_sizes=(4096, 1024, 1024), add_inputs=True)


def test_slices_default_to_equal_widths() -> None:
    assert LoraProblem("lora_shrink", 4, 3, 16, 4096, 16).slice_sizes == (16, 16, 16)


@pytest.mark.parametrize("name", ["max_loras", "num_slices", "m", "k", "n", "i"])
def test_sizes_must_be_positive(name: str) -> None:
    sizes = {"max_loras": 1, "num_slices": 1, "m": 1, "k": 1, "n": 1, name: 0}
    with pytest.raises(ValueError, match="expected an integer from 1 to 2147483647"):
        LoraProblem("lora_shrink", **sizes)


def test_slices_must_be_positive() -> None:
    with pytest.raises(ValueError, match="expected an integer from 1 to 2147483647"):
        replace(PROBLEM, slice_sizes=(4096, 0, 0))


@pytest.mark.parametrize("slice_sizes", [(4096,), (1024, 1024, 1024), (4096, 1024, 8192)])
def test_slice_sizes_must_fit(slice_sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="slice_sizes"):
        replace(PROBLEM, slice_sizes=slice_sizes)


def test_dtype_must_be_known() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        replace(PROBLEM, dtype="float32")


def test_labels() -> None:
    assert PROBLEM.shape_label == "L4.s3.m16.k64.n4096"
    assert str(PROBLEM) == "lora_expand L4.s3.m16.k64.n4096.bfloat16.w4096-1024-1024"
    assert replace(PROBLEM, i=768).shape_label.endswith(".i768")


def test_different_problems_have_different_labels() -> None:
    changes: list[dict[str, object]] = [
        {}, {"max_loras": 5}, {"m": 17}, {"k": 65}, {"i": 8}, {"dtype": "float16"}, {"add_inputs": False},
        {"slice_sizes": (4096, 1024, 512)}, {"slice_sizes": (4096, 4096, 4096)},
        {"n": 8192, "slice_sizes": (8192, 1, 1)},
    ]  # fmt: skip
    labels = [replace(PROBLEM, **change).label for change in changes]  # type: ignore[arg-type]
    assert all(a != b for a, b in combinations(labels, 2))


def test_file_name_of_a_gpu() -> None:
    assert GpuInfo("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1).file_name == "NVIDIA_A100_SXM4_80GB"


EXPERTS = Experts(128, 8)
QWEN_3 = LoraProblem("fused_moe_lora_w13_shrink", 4, 2, 16, 16, 2048, 768, experts=EXPERTS)


def test_experts_are_part_of_the_label_where_there_are_any() -> None:
    assert QWEN_3.label == "L4.s2.m16.k16.n2048.i768.bfloat16.e128.top8"
    assert QWEN_3.shape_label == "L4.s2.m16.k16.n2048.i768"
    assert Experts(128, 8, local=32, shards=1).label == "e128.top8.local32"
    assert Experts(128, 8, shards=4).label == "e128.top8.shards4"
    assert "e128" not in replace(QWEN_3, experts=None).label


def test_without_a_word_all_experts_are_here() -> None:
    assert Experts(128, 8) == Experts(128, 8, 128, 1)


@pytest.mark.parametrize("sizes", [(0, 1), (8, 0), (8, 9), (8, 2, 9), (8, 2, -1), (8, 2, 4, 0)])
def test_impossible_numbers_of_experts_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="experts"):
        Experts(*sizes)


def test_problems_survive_json_with_and_without_experts() -> None:
    for problem in (QWEN_3, PROBLEM, replace(QWEN_3, experts=Experts(64, 4, 16))):
        assert LoraProblem.from_json(json.loads(json.dumps(asdict(problem)))) == problem
    older = asdict(PROBLEM)
    del older["experts"]
    assert LoraProblem.from_json(older) == PROBLEM


SOFTMAX = SizedProblem("softmax", (("rows", 4096), ("cols", 1000), ("dtype", "float16"), ("causal", True), ("p", 0.5)))


def test_a_sized_problem_is_named_by_its_sizes() -> None:
    assert str(SOFTMAX) == "softmax rows=4096.cols=1000.dtype=float16.causal=True.p=0.5"
    assert SOFTMAX.shape_label == SOFTMAX.label
    assert SOFTMAX.numbers == {"rows": 12, "cols": pytest.approx(9.9658, abs=1e-4), "causal": 0, "p": -1}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((), "at least one size"),
        ((("n", 1), ("n", 2)), "each name only once"),
        ((("a.b", 1),), "expected a name for each size of a problem"),
        ((("n", "a b"),), "a number, a truth value or a word"),
        ((("n", "a.b"),), "a number, a truth value or a word"),
        ((("n", None),), "a number, a truth value or a word"),
    ],
)
def test_sizes_must_be_fit_for_names(sizes: tuple[tuple[str, object], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SizedProblem("softmax", sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", [PROBLEM, QWEN_3, SOFTMAX], ids=str)
def test_a_problem_of_either_kind_survives_json(problem: Problem) -> None:
    stored = json.loads(json.dumps(asdict(problem)))  # type: ignore[call-overload]
    read = problem_from_json(stored)
    assert read == problem
    assert hash(read) == hash(problem)
    assert type(read) is type(problem)


def test_numbers_of_a_lora_problem_are_those_that_tell_its_problems_apart() -> None:
    assert PROBLEM.numbers == {"m": 4, "k": 6, "n": 12, "i": 0, "max_loras": 2, "num_slices": 3}


def test_only_a_lora_problem_is_one() -> None:
    assert lora(PROBLEM) is PROBLEM
    with pytest.raises(TypeError, match="expected a problem of a multi-LoRA kernel, got softmax rows=4096"):
        lora(SOFTMAX)


def test_a_gpu_is_written_as_before_there_were_backends_where_it_is_nvidias() -> None:
    gpu = GpuInfo("NVIDIA H100", (9, 0), 132, 232448)
    written = gpu.to_json()
    assert list(written) == [
        "name", "capability", "sm_count", "shared_memory_bytes", "registers_per_sm", "threads_per_sm", "l2_bytes"
    ]  # fmt: skip
    assert GpuInfo.from_json(json.loads(json.dumps(written))) == gpu
    assert (gpu.backend, gpu.target) == ("cuda", "cuda:90")
    other = replace(gpu, backend="hip", architecture="gfx942")
    assert GpuInfo.from_json(json.loads(json.dumps(other.to_json()))) == other
    assert other.target == "hip:gfx942"
