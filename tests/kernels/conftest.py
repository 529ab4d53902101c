"""Fixtures of the kernels' tests."""

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from triton.compiler.compiler import get_cache_key
from triton.runtime.jit import JITFunction, get_cache_invalidating_env_vars
from vllm_wheel import importable, vllm_folder


@pytest.fixture
def vllm() -> Iterator[None]:
    """Make the published vLLM's kernels importable; skips where they cannot be had."""
    with importable(vllm_folder()):
        yield


@pytest.fixture
def hashes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a binary there is its hash, which Triton knows before it compiles: a second or so for each."""

    def hashed(
        self: Any, _: object, signature: Any, device: int, constexprs: Any, options: Any, attrs: Any, *more: Any
    ) -> SimpleNamespace:
        *_, backend, _ = self.device_caches[device]
        parsed = backend.parse_options(dict(options.__dict__))
        source = self.ASTSource(self, signature, constexprs, attrs)
        key = get_cache_key(source, backend, parsed, get_cache_invalidating_env_vars())
        return SimpleNamespace(hash=hashlib.sha256(key.encode()).hexdigest())

    monkeypatch.setattr(JITFunction, "_do_compile", hashed)
