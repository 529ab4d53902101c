"""Whom the GPU process refuses, before it touches a GPU."""

from types import SimpleNamespace

import pytest

from bo_tune.measure.gpu_process import refusal

NVIDIA = {"hip": None, "xpu": None, "cuda": "12.8"}


def cuda(*, available: bool = True, count: int = 2) -> SimpleNamespace:
    return SimpleNamespace(is_available=lambda: available, device_count=lambda: count)


@pytest.mark.parametrize("index", [0, 1])
def test_an_nvidia_gpu_is_taken(index: int) -> None:
    assert refusal(index, SimpleNamespace(**NVIDIA), cuda()) is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ({"hip": "6.4", "cuda": None}, "AMD"),
        ({"hip": "6.4"}, "AMD"),
        ({"xpu": "20250", "cuda": None}, "Intel"),
        ({"cuda": None}, "without CUDA"),
    ],
)
def test_a_gpu_of_another_vendor_is_refused_by_name(version: dict[str, str | None], expected: str) -> None:
    reason = refusal(0, SimpleNamespace(**{**NVIDIA, **version}), cuda())
    assert reason is not None
    assert expected in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("index", "available", "expected"), [(0, False, "no NVIDIA GPU"), (2, True, "this host has 2"), (7, True, "has 2")]
)
def test_a_gpu_that_is_not_there_is_refused(index: int, available: bool, expected: str) -> None:
    reason = refusal(index, SimpleNamespace(**NVIDIA), cuda(available=available))
    assert reason is not None
    assert expected in reason
