"""From layers to problems: sharing of lookups, target modules, and numbers of tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.models.problems import DENSE_KERNELS, lookup_of
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.models.shape import ModelShape
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.errors import ModelError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
SHAPE = ModelShape.from_config(LLAMA, Path("m/config.json"))
PROJECTIONS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


STUDY = ModelStudy(SHAPE, 1, (16,), (4,), (1, 64), target_modules=PROJECTIONS)


def served(kernels: tuple[str, ...] = DENSE_KERNELS, **changes: Any) -> dict[LoraProblem, tuple[str, ...]]:
    return replace(STUDY, **changes).problems_by_layer(kernels)


def names(target_modules: tuple[str, ...] | None, shape: ModelShape = SHAPE) -> list[str]:
    return [layer.name for layer in shape.layers(target_modules=target_modules)]


def test_equal_lookups_are_one_problem_that_knows_its_layers() -> None:
    problems = served()
    assert len(problems) == (4 + 3) * 2
    assert sum(map(len, problems.values())) == 4 * 2 * 2
    shared = LoraProblem("lora_expand", 4, 1, 64, 16, 4096, add_inputs=True)
    assert problems[shared] == ("o_proj", "down_proj")
    assert len({lookup_of(problem) for problem in problems}) == len(problems)


def test_every_combination_of_settings() -> None:
    problems = served(ranks=(16, 64), max_loras=(1, 4), add_inputs=(True, False), dtype="float16")
    assert len(problems) == 2 * 2 * 2 * (4 + 3 * 2)
    assert {p.dtype for p in problems} == {"float16"}
    assert all((p.add_inputs is None) == (p.kernel == "lora_shrink") for p in problems)


def test_square_models_share_more() -> None:
    square = ModelShape.from_config({**LLAMA, "intermediate_size": 4096}, Path("m"))
    problems = served(("lora_shrink",), shape=square, ms=(1,), target_modules=None)
    assert ("o_proj", "down_proj", "lm_head") in problems.values()


def test_embeddings_only_expand() -> None:
    (problem,) = served(target_modules=("embed_tokens",), ms=(8,))
    assert (problem.kernel, problem.k, problem.n) == ("lora_expand", 16, 4096)


@pytest.mark.parametrize("fully_sharded", [False, True])
def test_one_projection_makes_the_packed_layer_take_adapters(fully_sharded: bool) -> None:
    (layer,) = SHAPE.layers(2, fully_sharded=fully_sharded, target_modules=["v_proj"])
    assert (layer.name, layer.slice_sizes) == ("qkv_proj", (2048, 512, 512))
    assert layer.shrink_n(16) == (8 if fully_sharded else 16)


def test_target_modules_select_layers() -> None:
    assert names(None) == [*PROJECTIONS, "embed_tokens", "lm_head"]
    assert names(("q_proj", "k_proj", "down_proj")) == ["qkv_proj", "down_proj"]
    assert names(("model.layers.0.self_attn.o_proj",)) == ["o_proj"]
    assert names(("lm_head",)) == ["lm_head"]
    mistral = ModelShape.from_config({**LLAMA, "architectures": ["MistralForCausalLM"]}, Path("m"))
    assert names(None, mistral) == list(PROJECTIONS)
    assert names(("o_proj", "lm_head"), mistral) == ["o_proj", "lm_head"]


def test_fused_checkpoints_know_no_parts() -> None:
    phi = ModelShape.from_config({**LLAMA, "architectures": ["Phi3ForCausalLM"]}, Path("m"))
    assert names(("qkv_proj",), phi) == ["qkv_proj"]
    with pytest.raises(ModelError, match="no layer that takes adapters is called 'q_proj'"):
        names(("q_proj",), phi)


def test_experts_go_by_the_name_of_their_module_alone() -> None:
    config = {**LLAMA, "architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2}
    mixtral = ModelShape.from_config(config, Path("m"))
    assert names(("q_proj", "experts"), mixtral) == ["qkv_proj"]
    assert mixtral.wraps_experts(["q_proj", "experts"])
    assert mixtral.wraps_experts(["model.layers.3.block_sparse_moe.experts"])
    assert not mixtral.wraps_experts(["q_proj", "gate"])
    assert names(("experts",), mixtral) == []
    with pytest.raises(ModelError, match=r"no layer that takes adapters is called 'w1'; expected some of .*experts"):
        names(("q_proj", "w1"), mixtral)


def test_a_dotted_name_is_a_full_one() -> None:
    with pytest.raises(
        ModelError,
        match=r"no layer that takes adapters is called 'self_attn\.o_proj'; did you mean "
        r"o_proj\?",
    ):
        names(("self_attn.o_proj",))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("q_pro", "no layer that takes adapters is called 'q_pro'; did you mean q_proj?"),
        ("", "expected some of down_proj, "),
    ],
)
def test_unknown_target_modules(target: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        names((target,))
    assert message in str(caught.value)
    assert str(caught.value).startswith("m/config.json: target modules: ")


def test_a_rank_that_cannot_be_shared() -> None:
    with pytest.raises(ModelError, match="a multiple of the tensor-parallel size 4, got 1"):
        served(tensor_parallel=4, fully_sharded=True, target_modules=None, ranks=(1,))


@given(st.sets(st.integers(1, 9000), min_size=1), st.integers(1, 2000))
def test_what_runs_for_each_sequence_has_every_key_it_may_be_looked_up_under(ms: set[int], sequences: int) -> None:
    problems = served(("lora_shrink",), target_modules=("lm_head",), ms=tuple(sorted(ms)), max_sequences=sequences)
    present = {problem.m for problem in problems}
    keys = sorted(ms)
    assert {nearest_of(keys, m) for m in range(1, sequences + 1)} <= present
    assert len([m for m in present if m > sequences]) <= 1
