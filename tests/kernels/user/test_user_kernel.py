"""What a user says of a kernel: read, checked, and turned into a search space."""

from dataclasses import replace

import numpy as np
import pytest
import triton
from helpers import H100
from user_kernels import add_scaled, add_scaled_kernel, inputs, kernels_in_a_list

from bo_tune import InputError
from bo_tune.core.problem import LoraProblem, SizedProblem
from bo_tune.kernels.registry import define, is_known, kernel_spec
from bo_tune.kernels.user.identity.home import home_of
from bo_tune.kernels.user.spec import GRID_FEATURES, TILE_FEATURES, UserSpec
from bo_tune.kernels.user.values import Values

PROBLEM = SizedProblem("add_scaled", (("n", 1000), ("skip", 0), ("dtype", "float32")))
SPEC = UserSpec(add_scaled, frozenset({"n", "skip", "dtype"}))
PARAMS = {"BLOCK": 128, "CLAMP": True, "MODE": "double", "num_warps": 4, "OFF": -1}


def test_positive_integers_stand_for_themselves_and_places_for_other_values() -> None:
    assert dict(Values("BLOCK", (256, 64)).numbers) == {64: 64, 256: 256}
    assert dict(Values("OFF", (0, -1)).numbers) == {-1: 1, 0: 2}
    assert dict(Values("MODE", ("single", "double")).numbers) == {"single": 1, "double": 2}
    assert dict(Values("scale", (0.5, 0.25)).numbers) == {0.25: 1, 0.5: 2}


def test_configs_go_to_numbers_and_back() -> None:
    encoded = add_scaled.encode(PARAMS, "here")
    assert encoded == {"BLOCK": 128, "CLAMP": 1, "MODE": 2, "num_warps": 4, "OFF": 1}
    assert add_scaled.decode(encoded) == PARAMS
    every = [tuple(add_scaled.decode(config).items()) for config in SPEC.search_space]
    assert len(set(every)) == len(SPEC.search_space) == 3 * 2 * 2 * 2 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {}}, "space: expected the kernel's parameters"),
        ({"space": {"BLOCK": ()}}, "space: BLOCK: expected at least one value, and each only once"),
        ({"space": {"BLOCK": (64, 64)}}, "space: BLOCK: expected at least one value, and each only once"),
        ({"space": {"BLOCK": ([64],)}}, "expected each value to be a number"),
        ({"space": {"BLOC": (64,)}}, "no parameter 'BLOC'; expected some of x, y, n, factor, offset, BLOCK"),
        ({"output": "z"}, "output: expected one of the kernel's arguments, got 'z'"),
        ({"default": {"BLOCK": 64}}, "default: there is no value for CLAMP"),
        ({"default": {**PARAMS, "WARPS": 4}}, "default: WARPS is not in the space, which has BLOCK, CLAMP"),
        ({"default": {**PARAMS, "MODE": "triple"}}, "MODE: expected one of 'single', 'double', got 'triple'"),
        ({"default": {**PARAMS, "BLOCK": -64}}, "BLOCK: expected one of 64, 128, 256, got -64"),
        ({"name": "a | b"}, "a kernel's name"),
        ({"function": inputs}, "expected a function under @triton.jit, got function"),
        (
            {
                "function": triton.autotune(
                    [triton.Config({"BLOCK": 64})], key=["n"], pre_hook=lambda arguments, reset_only=False: None
                )(add_scaled_kernel)
            },
            "@triton.autotune has a pre_hook or post_hook of its own, which cannot be tuned; remove it, and use "
            "zero= and in_place= here instead",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        replace(add_scaled, **change)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_default_may_lie_off_the_grid_where_numbers_stand_for_themselves() -> None:
    kernel = replace(add_scaled, default={**PARAMS, "BLOCK": 512})
    default = UserSpec(kernel, frozenset()).default_config(PROBLEM)
    assert default["BLOCK"] == 512
    assert default not in SPEC.search_space


def test_without_a_default_it_is_the_valid_config_nearest_to_the_middle() -> None:
    assert SPEC.default_config(PROBLEM)["BLOCK"] == 128
    picky = replace(add_scaled, valid=lambda sizes, config: config["BLOCK"] == 256 and not config["CLAMP"])
    default = picky.decode(UserSpec(picky, frozenset()).default_config(PROBLEM))
    assert (default["BLOCK"], default["CLAMP"]) == (256, False)
    with pytest.raises(InputError, match="no config of the space is valid"):
        UserSpec(replace(add_scaled, valid=lambda sizes, config: False), frozenset()).default_config(PROBLEM)


def test_a_default_may_depend_on_the_problem_and_must_be_valid() -> None:
    kernel = replace(add_scaled, default=lambda sizes: {**PARAMS, "BLOCK": 64 if sizes["n"] < 5000 else 256})
    spec = UserSpec(kernel, frozenset())
    large = SizedProblem("add_scaled", (("n", 10_000), ("skip", 0)))
    assert spec.default_config(PROBLEM)["BLOCK"] == 64
    assert spec.default_config(large)["BLOCK"] == 256
    refused = replace(kernel, valid=lambda sizes, config: config["BLOCK"] > 64)
    with pytest.raises(InputError, match="the default config is not valid"):
        UserSpec(refused, frozenset()).default_config(PROBLEM)


def test_what_a_users_function_raises_is_told_with_its_name() -> None:
    wrong = replace(add_scaled, grid=lambda sizes, config: sizes["rows"])
    with pytest.raises(InputError, match=r"add_scaled: grid\(.*KeyError: 'rows'"):
        wrong.programs(PROBLEM, PARAMS)
    for said in (0, (1, 2, 3, 4), (), 1.5):
        with pytest.raises(InputError, match="expected up to three positive numbers"):
            replace(add_scaled, grid=lambda sizes, config, said=said: said).programs(PROBLEM, PARAMS)
    with pytest.raises(InputError, match="expected a finite number, got nan"):
        replace(add_scaled, features={"odd": lambda sizes, config: float("nan")}).feature("odd", PROBLEM, PARAMS)


def test_features_describe_every_config_by_finite_numbers() -> None:
    configs = [*SPEC.search_space, SPEC.default_config(PROBLEM)]
    table = SPEC.features(configs, PROBLEM, H100)
    assert table.shape == (len(configs), len(SPEC.feature_names))
    assert np.isfinite(table).all()
    names = list(SPEC.feature_names)
    assert names[-1] == "blocks of all"
    assert {*GRID_FEATURES, *TILE_FEATURES} < set(names)
    assert {"MODE single", "MODE double", "CLAMP True", "CLAMP False", "BLOCK", "OFF"} < set(names)
    row = dict(zip(names, SPEC.features([add_scaled.encode(PARAMS, "here")], PROBLEM, H100)[0], strict=True))
    assert row["BLOCK"] == 7
    assert (row["MODE double"], row["MODE single"], row["OFF"]) == (1, 0, -1)
    assert row["log2 programs"] == 3
    assert row["log2 tile per thread"] == 0
    assert row["last wave fill"] == pytest.approx(8 / 132)


def test_trials_of_another_kernel_or_of_other_sizes_are_told_apart() -> None:
    config = SPEC.default_config(PROBLEM)
    assert SPEC.understands(config, PROBLEM)
    assert not SPEC.understands({**config, "MODE": 3}, PROBLEM)
    assert not SPEC.understands({"BLOCK": 64}, PROBLEM)
    assert not SPEC.understands(config, SizedProblem("add_scaled", (("rows", 4),)))
    assert not SPEC.understands(config, LoraProblem("lora_shrink", 4, 1, 16, 4096, 16))


def test_a_defined_kernel_is_known_by_its_name() -> None:
    define(SPEC)
    assert is_known("add_scaled")
    assert kernel_spec("add_scaled") is SPEC
    assert not is_known("nothing of the kind")
    with pytest.raises(InputError, match="because bo_tune has a kernel of this name"):
        define(UserSpec(replace(add_scaled, name="lora_shrink"), frozenset()))


def test_the_home_of_a_kernel_is_the_module_whose_global_it_is() -> None:
    assert home_of(add_scaled) == "user_kernels"
    with pytest.raises(InputError, match="expected a global of a module"):
        home_of(kernels_in_a_list[0])
