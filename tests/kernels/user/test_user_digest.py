"""Which text a user's kernel is: what changes it and what does not."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT

from bo_tune.kernels.user.digest import meaning, source_of
from bo_tune.kernels.user.home import home_of
from bo_tune.processes.importing import import_source, is_importing

SCRIPT = (ROOT / "examples" / "softmax.py").read_text()

KERNEL = """
import torch, triton, triton.language as tl
import {helpers}
from bo_tune import Kernel

@triton.jit
def copy_kernel(x, y, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(y + place, {helpers}.twice(tl.load(x + place)))

copying = Kernel(copy_kernel, space={{"BLOCK": (64,)}}, grid=lambda sizes, config: 1, output="y",
                 inputs=lambda sizes, device: {{}}, reference=lambda arguments: arguments["x"])
"""
HELPERS = """
import triton

@triton.jit
def twice(values):
    return values {operation}
"""


def test_comments_layout_and_the_part_for_scripts_do_not_count() -> None:
    changed = SCRIPT.replace("import bo_tune\n", "import bo_tune  # the tuner\n\n", 1).replace(
        '"cols": 1024', '"cols": 2048'
    )
    assert changed != SCRIPT
    assert meaning(changed) == meaning(SCRIPT)


@pytest.mark.parametrize(
    ("before", "after"), [("tl.exp", "tl.exp2"), ("torch.float16", "torch.float32"), ("(1, 2)}", "(1,)}")]
)
def test_what_defines_the_kernel_counts(before: str, after: str) -> None:
    assert before in SCRIPT
    assert meaning(SCRIPT.replace(before, after)) != meaning(SCRIPT)


def imported(folder: Path, name: str, text: str) -> ModuleType:
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def test_the_files_of_jit_functions_that_are_called_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for number, operation in enumerate(("* 2", "* 2  # twice", "+ values")):
        helpers, name = f"digest_helpers_{number}", f"digest_kernel_{number}"
        imported(tmp_path, helpers, HELPERS.format(operation=operation))
        text = KERNEL.format(helpers=helpers)
        module = imported(tmp_path, name, text)
        (tmp_path / f"{name}.py").write_text("")  # so that the helpers alone tell
        digests.append(source_of(module.copying, tmp_path / f"{name}.py").partition(" ")[2])
    assert digests[0] == digests[1] != digests[2]


def test_a_script_is_imported_once_under_a_name_of_its_own_and_found_again_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "some_script.py"
    path.write_text(
        SCRIPT.replace(
            "import bo_tune\n",
            "import bo_tune\nfrom bo_tune.processes import importing\nDURING = importing.is_importing()\n",
            1,
        )
    )
    module = import_source(str(path))
    assert import_source(str(path)) is module
    assert module.__name__ in sys.modules
    assert module.__name__ != "__main__"
    assert home_of(module.softmax) == str(path)
    assert (module.DURING, is_importing()) == (True, False)
