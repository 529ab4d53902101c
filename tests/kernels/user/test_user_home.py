"""Which name a kernel has in its module, and which module is its home."""

from dataclasses import replace
from types import ModuleType

import pytest
import tutorial_softmax
from user_kernels import add_scaled

from bo_tune.errors import InputError
from bo_tune.kernels.user.identity.home import home_of, kernel_in, uniquely_named
from bo_tune.kernels.user.kernel import Kernel


def test_two_kernels_over_one_function_are_called_as_their_globals() -> None:
    first, second = uniquely_named(tutorial_softmax.softmax), uniquely_named(tutorial_softmax.loose)
    assert (first.name, second.name) == ("softmax", "loose")
    assert first.space is tutorial_softmax.softmax.space
    assert home_of(tutorial_softmax.loose) == "tutorial_softmax"


def test_a_kernel_alone_and_one_with_a_name_of_its_own_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uniquely_named(add_scaled).name == "add_scaled"
    monkeypatch.delattr(tutorial_softmax, "loose")
    assert uniquely_named(tutorial_softmax.softmax).name == "softmax_kernel"
    named = replace(tutorial_softmax.softmax, name="mine")
    monkeypatch.setattr(tutorial_softmax, "named", named, raising=False)
    monkeypatch.setattr(tutorial_softmax, "other_name_of_it", named, raising=False)
    assert uniquely_named(named).name == "mine"
    assert uniquely_named(tutorial_softmax.softmax).name == "softmax_kernel"
    nowhere = replace(named)
    assert uniquely_named(nowhere) is nowhere


@pytest.mark.parametrize(("name", "as_global"), [("same", "another"), ("", "softmax_kernel")])
def test_two_kernels_of_one_name_are_refused(name: str, as_global: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(tutorial_softmax.softmax, name=name)
    other = replace(tutorial_softmax.softmax, name=name)
    monkeypatch.setattr(tutorial_softmax, "one", one, raising=False)
    monkeypatch.setattr(tutorial_softmax, as_global, other, raising=False)
    held = getattr(tutorial_softmax, as_global)
    with pytest.raises(InputError, match=r"two kernels .* called '(same|softmax_kernel)'; give one of them another"):
        uniquely_named(held)


def test_a_kernel_is_found_by_its_name_and_by_its_global() -> None:
    module = ModuleType("made")
    module.scaling = add_scaled  # type: ignore[attr-defined]
    assert kernel_in(module, "add_scaled") is add_scaled
    assert kernel_in(module, "scaling").name == "scaling"  # a script has another below __main__ that shares its name
    with pytest.raises(InputError, match="no kernel 'listed'; expected one of add_scaled"):
        kernel_in(_with_file(module), "listed")


def _with_file(module: ModuleType) -> ModuleType:
    module.__file__ = "made.py"
    return module


MADE_HERE = replace(add_scaled, name="here")


def test_a_kernel_knows_the_module_whose_code_made_it() -> None:
    assert add_scaled.defined_in == "user_kernels"
    assert MADE_HERE.defined_in == __name__
    assert isinstance(MADE_HERE, Kernel)
    assert home_of(MADE_HERE) == __name__
