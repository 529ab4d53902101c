"""Fixtures of the kernels' tests."""

from collections.abc import Iterator

import pytest
from vllm_wheel import importable, vllm_folder


@pytest.fixture
def vllm() -> Iterator[None]:
    """Make the published vLLM's kernels importable; skips where they cannot be had."""
    with importable(vllm_folder()):
        yield
