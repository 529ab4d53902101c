"""Which code a user's kernel is: what changes its name and what does not."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT

from bo_tune.errors import InputError
from bo_tune.kernels.user.identity.digest import source_of
from bo_tune.kernels.user.identity.home import home_of
from bo_tune.processes.importing import import_source, is_importing

SCRIPT = (ROOT / "examples" / "softmax.py").read_text()

FILES = {
    "shop/__init__.py": "",
    "shop/deep/__init__.py": "",
    "shop/deep/maths.py": """
import triton

@triton.jit
def twice(values):
    return values * 2

@triton.jit
def other(values):
    return values * 3
""",
    "shop/sizes.py": """
import triton.language as tl

WIDTH = tl.constexpr(64)
DEPTH = tl.constexpr(16)
UNUSED = tl.constexpr(1)
""",
    "shop/passed.py": """
import triton

@triton.jit
def negative(values):
    return -values
""",
    "shop/making.py": """
import torch

SCALE = 2
OTHER = 3

def drawn(n, device):
    return SCALE * torch.randn(n, device=device)

def not_called():
    return OTHER
""",
    "shop/kernels.py": '''
"""Kernels."""
import functools
import torch, triton, triton.language as tl
import shop.deep.maths
import shop.passed
from shop import making, sizes
from shop.sizes import WIDTH
from bo_tune import Kernel, Tolerance

ACTIVATIONS = {"negative": shop.passed.negative}

@triton.jit
def copy_kernel(x, y, FN: tl.constexpr, BLOCK: tl.constexpr):
    """Copies."""
    place = tl.arange(0, BLOCK) + WIDTH + sizes.DEPTH
    tl.store(y + place, FN(shop.deep.maths.twice(tl.load(x + place))))

@triton.jit
def another_kernel(x, y, BLOCK: tl.constexpr):
    tl.store(y, tl.load(x))

def inputs(sizes, device):
    """Made."""
    x = making.drawn(64, device)
    return {"x": x, "y": torch.empty_like(x), "FN": ACTIVATIONS["negative"]}

def reference(arguments):
    return -2 * arguments["x"]

copying = Kernel(copy_kernel, space={"BLOCK": (64,)}, grid=lambda sizes, config: 1, output="y",
                 inputs=inputs, reference=reference, tolerance=None)
another = Kernel(another_kernel, space={"BLOCK": (32,)}, grid=lambda sizes, config: 2, output="y",
                 inputs=inputs, reference=functools.partial(reference))
''',
}

Digest = Callable[[Mapping[str, str]], str]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Digest:
    """What finds the digest of ``copying`` after texts of its files have been replaced by others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def found(changes: Mapping[str, str]) -> str:
        text = "\0".join(f"{name}\0{file}" for name, file in FILES.items())
        for before, after in changes.items():
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        parts = text.split("\0")
        for name, file in zip(parts[::2], parts[1::2], strict=True):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(file)
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        module = importlib.import_module("shop.kernels")
        return source_of(module.copying, Path(module.__file__))

    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("values * 2", "values + values"),
        ("constexpr(64)", "constexpr(128)"),
        ("constexpr(16)", "constexpr(32)"),
        ("return -values", "return 0 - values"),
        ("(0, BLOCK) + WIDTH", "(1, BLOCK) + WIDTH"),
        ("@triton.jit\ndef copy_kernel", "@triton.jit(do_not_specialize=[0])\ndef copy_kernel"),
        ("making.drawn(64, device)", "making.drawn(32, device)"),
        ("SCALE = 2", "SCALE = 4"),
        ("SCALE * torch.randn", "SCALE + torch.randn"),
        ("return -2 *", "return -3 *"),
        ("config: 1", "config: 3"),
        ("tolerance=None", "tolerance=Tolerance(relative=0.1)"),
        ("reference=reference, tol", "reference=reference, in_place=True, tol"),
    ],
    ids=[
        "a helper called as pkg.mod.f()",
        "a constant imported from another module",
        "a constant of another module",
        "a jit function that is passed as an argument",
        "the kernel",
        "its decorator",
        "the inputs",
        "a constant that they use",
        "a function that they call",
        "the reference",
        "the grid",
        "the tolerance",
        "in_place",
    ],
)
def test_what_makes_the_results_counts(digest: Digest, before: str, after: str) -> None:
    assert digest({}) != digest({before: after})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tl.store(y, tl.load(x))", "tl.store(y, tl.load(x) + 1)"),
        ("config: 2", "config: 3"),
        ("values * 3", "values * 4"),
        ("UNUSED = tl.constexpr(1)", "UNUSED = tl.constexpr(2)"),
        ("OTHER = 3", "OTHER = 4"),
        ('"""Copies."""', '"""Copies\n    things."""'),
        ('    """Made."""\n', ""),
        ('"""Kernels."""', '"""Kernels of mine."""\n\n\n# Lines further down.\n'),
        ("import triton\n\n@triton.jit\ndef twice", "import triton\n\n\n# of a shop\n@triton.jit\ndef twice"),
        ("inputs=inputs, reference=reference, tol", "inputs=inputs,\n    # right\n    reference=reference, tol"),
        ('space={"BLOCK": (64,)}', 'space={"BLOCK": (64, 128)}'),
    ],
    ids=[
        "another kernel of the file",
        "its definition",
        "a jit function that is not called",
        "a constant that is not used",
        "a constant of a function that is not called",
        "a docstring",
        "a docstring gone",
        "lines above",
        "lines and comments above a helper",
        "comments within the definition",
        "the space",
    ],
)
def test_what_does_not_make_them_does_not_count(digest: Digest, before: str, after: str) -> None:
    assert digest({}) == digest({before: after})


def test_a_kernel_that_triton_cannot_compile_is_told_in_one_line(digest: Digest) -> None:
    plain = {"@triton.jit\ndef twice": "def twice"}
    with pytest.raises(InputError, match="copy_kernel: Triton cannot compile it: Unsupported function referenced"):
        digest(plain)


def test_lambdas_of_one_line_are_told_apart(digest: Digest) -> None:
    both = {"reference=reference, tolerance=None": "reference=(lambda a: a['x'], lambda a: a['y'])[0]"}
    first = digest(both)
    assert first != digest({before: after.replace("[0]", "[1]") for before, after in both.items()})
    assert first == digest({before: after.replace("a['y']", "-a['y']") for before, after in both.items()})


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


THIRD = "def inputs(sizes, device):\n    return {}\n"
HOME = """
import triton, triton.language as tl
from third_module import inputs
from bo_tune import Kernel

@triton.jit
def one_kernel(x, BLOCK: tl.constexpr):
    tl.store(x, BLOCK)

one = Kernel(one_kernel, space={"BLOCK": (64,)}, grid=lambda sizes, config: 1, output="x", inputs=inputs,
             reference=lambda arguments: arguments["x"])
"""


@pytest.mark.parametrize("script", ["script_a", "script_b"])
def test_a_kernel_with_inputs_of_a_third_module_is_at_home_where_it_is_defined(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever module that holds it too was imported before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("third_module", "home_module", script):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, text in (("third_module", THIRD), ("home_module", HOME), (script, "from home_module import one\n")):
        (tmp_path / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    importlib.import_module(script)
    one = sys.modules["home_module"].one
    main = ModuleType("__main__")
    main.one = one  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert home_of(one) == "home_module"
