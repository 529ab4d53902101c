"""Scripts that call ``bo_tune.tune``, run as their users would."""

import os
import shutil
import sys
from pathlib import Path

import forked
import pytest
from helpers import PATIENCE_S, ROOT, Ran, stored_trials

pytestmark = pytest.mark.slow

SCRIPT = """
import bo_tune
from user_kernels import add_scaled_kernel, inputs, reference

mine = bo_tune.Kernel(
    add_scaled_kernel,
    space={"BLOCK": (64, 128), "CLAMP": (False,), "MODE": ("single",), "num_warps": (1, 4)},
    inputs=inputs, grid=lambda sizes, config: -(-sizes["n"] // config["BLOCK"]), output="y", reference=reference,
    in_place=True,
)

if __name__ == "__main__":
    from bo_tune.measure.gpu import device as cuda
    cuda.GPU_MODULE = "fake_user_gpu"
    for best in bo_tune.tune(mine, [{"n": 1024, "skip": 0, "dtype": "float16"}], jobs=1, storage="sqlite:///own.db"):
        print(best)
"""


def run(path: Path, folder: Path, **environment: str) -> Ran:
    done = forked.run(
        [sys.executable, str(path)],
        cwd=folder,
        env={**os.environ, "TRITON_CACHE_DIR": str(folder / "triton"), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def script(folder: Path, text: str) -> Ran:
    """Run a script of one's own, which finds modules next to it."""
    path = folder / "scripts" / "my script.py"  # a blank in the name is nothing to stumble over
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    for module in ("user_kernels.py", "fake_user_gpu.py"):
        shutil.copy(ROOT / "tests" / "kernels" / "user" / module, path.parent)
    return run(path, folder)


def test_a_script_tunes_its_own_kernel_and_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    ran = script(tmp_path, SCRIPT)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("add_scaled_kernel n=1024 skip=0 dtype=float16: BLOCK=128 CLAMP=False MODE=single")
    (study,) = stored_trials(tmp_path / "own.db")
    assert " | my script.py " in study
    again = script(tmp_path, SCRIPT.replace("print(best)", "print(best)  # of the same kernel"))
    assert again.out == ran.out
    assert list(stored_trials(tmp_path / "own.db")) == [study]


@pytest.mark.parametrize("example", ["softmax", "matmul", "layer_norm", "split_k"])
def test_an_example_without_a_gpu_ends_with_one_line(example: str, tmp_path: Path) -> None:
    ran = run(ROOT / "examples" / f"{example}.py", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("bo_tune: CUDA device 0 cannot be used: ")
    assert ran.err.count("\n") == 1
    assert "--device" not in ran.err
    assert not list(tmp_path.glob("*.db"))


def test_a_script_that_tunes_while_it_is_imported_is_told_where_that_belongs(tmp_path: Path) -> None:
    ran = script(tmp_path, SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    assert ran.code == 2
    assert 'call bo_tune.tune below `if __name__ == "__main__":`' in ran.err


def test_a_script_that_uses_the_gpu_while_it_is_imported_is_told_in_one_line(tmp_path: Path) -> None:
    used = 'import torch\nif __name__ != "__main__":\n    torch.cuda.is_initialized = lambda: True\n'
    ran = script(tmp_path, used + SCRIPT)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("bo_tune: CUDA device 0 cannot be used: ")
    assert "my script.py uses the GPU while it is imported" in ran.err
    assert ran.err.count("\n") == 1


def test_other_errors_of_a_script_are_shown_as_usual_and_its_own_may_be_caught(tmp_path: Path) -> None:
    lines = ("try:", "    bo_tune.tune(mine, [])", "except bo_tune.InputError as error:", "    print(error)", "1 / 0")
    main = "".join(f"    {line}\n" for line in lines)
    ran = script(tmp_path, SCRIPT.partition("    from bo_tune.measure")[0] + main)
    assert (ran.code, ran.out) == (1, "add_scaled_kernel: expected at least one problem to tune for, got none\n")
    assert ran.err.startswith("Traceback")
    assert ran.err.rstrip().endswith("ZeroDivisionError: division by zero")
