"""Which layer of a model a problem is timed in."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from bo_tune.core.problem import Experts, Problem, SizedProblem
from bo_tune.core.surroundings import MOE_KERNELS, Layer, Linear, Mixture, Weights
from bo_tune.engines.models.layers_around import layers_around
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.models.shape import ModelShape
from bo_tune.engines.registry import served_problems

MODELS = ROOT / "studies" / "models"


def found_in(name: str, **more: Any) -> dict[Problem, Layer]:
    values = {"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": [16], **more}
    model = ModelStudy.of(str(MODELS / name), **values)
    return layers_around(model, served_problems(model))


def test_every_linear_of_a_decoder_is_a_place_and_the_vocabulary_is_none() -> None:
    found = found_in("llama-3.1-8b")
    qkv, out = Linear(4096, (4096, 1024, 1024)), Linear(4096, (4096,))
    gate_up, down = Linear(4096, (14336, 14336)), Linear(14336, (4096,))
    shrinks = {linear for problem, linear in found.items() if problem.kernel == "lora_shrink"}
    assert shrinks == {qkv, out, gate_up, down}
    expands = {linear for problem, linear in found.items() if problem.kernel == "lora_expand"}
    assert expands == {qkv, out, gate_up}, "down_proj's expand is o_proj's: the first layer stands for both"


def test_ranks_hold_their_share_of_a_layer() -> None:
    found = found_in("llama-3.1-8b", tensor_parallel=2)
    assert Linear(7168, (4096,)) in found.values()
    assert Linear(4096, (2048, 512, 512)) in found.values()


@pytest.mark.parametrize("more", [{"fully_sharded": True, "tensor_parallel": 2}])
def test_layers_whose_ranks_talk_between_the_kernels_are_none(more: dict[str, Any]) -> None:
    found = found_in("llama-3.1-8b", **more)
    assert all(len(linear.widths) == 1 for linear in found.values()), found


def test_experts_are_a_place_of_their_four_kernels_and_kernels_of_others_have_none() -> None:
    model = ModelStudy.of(str(MODELS / "qwen3-30b-a3b"), tensor_parallel=2, ranks=[16], max_loras=[4], ms=[16])
    found = layers_around(model, {**served_problems(model), SizedProblem("rms_norm", (("m", 1),)): ("norm",)})
    mixtures = {problem.kernel: layer for problem, layer in found.items() if isinstance(layer, Mixture)}
    assert set(mixtures.values()) == {Mixture(2048, 768, 384, Experts(128, 8))}
    assert set(mixtures) == set(MOE_KERNELS)
    assert {problem.kernel for problem in found} == {"lora_shrink", "lora_expand", *MOE_KERNELS}


@pytest.mark.parametrize(
    "more", [{"fully_sharded": True, "tensor_parallel": 2}, {"dual_stream": True}], ids=["fully sharded", "two streams"]
)
def test_experts_that_are_run_otherwise_are_no_place(more: dict[str, Any]) -> None:
    assert not any(isinstance(layer, Mixture) for layer in found_in("qwen3-30b-a3b", **more).values())


def test_experts_are_as_large_as_the_engine_pads_them() -> None:
    mixture = next(layer for layer in found_in("gpt-oss-20b").values() if isinstance(layer, Mixture))
    assert mixture == Mixture(3072, 5888, 2944, Experts(32, 4, packed=True))


@pytest.mark.parametrize(
    ("quantization", "weights"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, Weights.FP8),
        ({"quant_method": "awq", "bits": 4}, Weights.INT4),
        ({"quant_method": "gptq", "bits": 8}, Weights.FP8),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}, Weights.INT4),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": None}}}, Weights.BITS_16),
        ({"quant_method": "mxfp4"}, Weights.BITS_16),
        ({"quant_method": "gptq", "bits": "four"}, Weights.BITS_16),
        (None, Weights.BITS_16),
    ],
)
def test_base_products_are_of_weights_as_the_checkpoint_stores_them(
    quantization: object, weights: Weights, tmp_path: Path
) -> None:
    config = json.loads((MODELS / "llama-3.1-8b" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    model = ModelStudy.of(str(tmp_path), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[16])
    found = layers_around(model, served_problems(model))
    assert {layer.weights for layer in found.values() if isinstance(layer, Linear)} == {weights}


def test_two_streams_are_places_of_the_kernel_that_overwrites() -> None:
    found = found_in("llama-3.1-8b", dual_stream=True)
    assert {linear.adds for linear in found.values()} == {False}, "a shrink's layer has the expand that overwrites"
    assert len([problem for problem in found if getattr(problem, "add_inputs", None) is False]) == 3


def test_an_expand_that_the_user_asks_for_decides_how_its_layer_runs() -> None:
    assert {linear.adds for linear in found_in("llama-3.1-8b", add_inputs=[False]).values()} == {False}
    assert {linear.adds for linear in found_in("llama-3.1-8b").values()} == {True}


def test_layers_of_one_name_and_two_shapes() -> None:
    config = json.loads((Path(__file__).parent / "lookups.json").read_text())["nvidia--Gemma-4-31B-IT-NVFP4"]["config"]
    model = ModelStudy(ModelShape.from_config(config, Path("m")), 1, (16,), (4,), (16,))
    found = layers_around(model, served_problems(model, ["lora_expand"]))
    assert {Linear(5376, (8192, 4096, 4096)), Linear(5376, (16384, 2048, 2048))} <= set(found.values())
