"""Lookups of Mamba-2 layers, as the plugin records them, made problems."""

from pathlib import Path
from typing import Any

import pytest
from helpers import H100
from observed_engine import expand, layer, shrink, steps, written

from bo_tune.engines.vllm.observed.study import ObservedStudy
from bo_tune.errors import InputError
from bo_tune.kernels.mamba.step import KERNEL, MambaStep

ADAPTERS = [
    layer("model.layers.*.self_attn.o_proj", [[4, 1, 16, 4096]], [[4, 1, 4096, 16]]),
    *(line for m in (8, 16, 512) for line in (shrink(m), expand(m, 4096))),
]


def mamba(batch: Any, **changes: Any) -> dict[str, Any]:
    shape = {"headdim": 64, "dstate": 128, "nheads": 64, "cache_dtype": "float32", "is_blackwell": False}
    return {"lookup": "mamba", "arguments": {**shape, "batch": batch, **changes}, "count": 3}


def study(path: Path, *more: dict[str, Any], ms: tuple[int, ...] = ()) -> ObservedStudy:
    written(path, *ADAPTERS, *more, steps(8, 8, 8, 4, count=100), steps(16, 16, 16, 4, count=100), gpu=H100.name)
    return ObservedStudy.of(path, ms)


def of_mamba(observed: ObservedStudy) -> list[MambaStep]:
    return [MambaStep.of(problem) for problem in observed.problems_by_layer([KERNEL])]


def test_they_have_the_keys_of_the_steps(tmp_path: Path) -> None:
    observed = study(tmp_path / "l.jsonl", mamba(1), mamba(8), mamba(16), mamba(16, nheads=32))
    assert set(of_mamba(observed)) == {MambaStep(m, heads, 64, 128) for m in observed.ms for heads in (64, 32)}
    assert set(observed.problems_by_layer([KERNEL]).values()) == {("mamba",)}
    assert KERNEL not in observed.kernels, "of adapters alone, unless they are asked for"
    assert KERNEL not in {problem.kernel for problem in observed.problems_by_layer()}


def test_no_more_sequences_have_keys_than_were_looked_up(tmp_path: Path) -> None:
    observed = study(tmp_path / "l.jsonl", mamba(16), ms=(4, 16, 512))
    assert [step.sequences for step in of_mamba(observed)] == [4, 16]


def test_states_of_either_kind_are_told_apart(tmp_path: Path) -> None:
    observed = study(tmp_path / "l.jsonl", mamba(16, cache_dtype="bfloat16"), ms=(16,))
    assert of_mamba(observed) == [MambaStep(16, 64, 64, 128, state_dtype="bfloat16")]


@pytest.mark.parametrize("changes", [{"batch": "many"}, {"nheads": 0}, {"cache_dtype": "int8"}], ids=str)
def test_a_lookup_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    observed = study(tmp_path / "l.jsonl", mamba(**{"batch": 16, **changes}))
    with pytest.raises(InputError, match="bo_tune cannot use this lookup"):
        of_mamba(observed)
