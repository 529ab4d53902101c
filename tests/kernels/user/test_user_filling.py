"""Memory that torch allocates without a value is filled before a check."""

import subprocess
import sys

import pytest
import torch

from bo_tune.kernels.user.check.filling import FillingAllocations


@pytest.mark.parametrize(
    ("dtype", "value", "other"),
    [
        (torch.float16, float("nan"), 0.0),
        (torch.int8, 127, -128),
        (torch.bool, True, False),
    ],
)
def test_new_memory_is_filled_and_what_has_a_value_is_left(dtype: torch.dtype, value: float, other: float) -> None:
    for is_other, expected in ((False, value), (True, other)):
        with FillingAllocations(other=is_other):
            made = torch.empty(5, dtype=dtype)
            like = torch.empty_like(made)
            ones = torch.ones(5, dtype=dtype)
        for filled in (made, like):
            assert filled.tolist() == pytest.approx([expected] * 5, nan_ok=True)
        assert torch.equal(ones, torch.ones(5, dtype=dtype))


def test_filling_does_not_load_pytorch_s_compiler() -> None:
    """Loading it takes seconds in the process that holds the GPU."""
    program = (
        "import sys, torch\n"
        "from bo_tune.kernels.user.check.filling import FillingAllocations\n"
        "with FillingAllocations():\n"
        "    print(torch.empty(1).isnan().item(), 'torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["True", "False"]
