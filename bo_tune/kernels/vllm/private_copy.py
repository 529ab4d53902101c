"""Runs vLLM's functions in separate namespaces, where their lookups and launches can be replaced.

vLLM's own modules stay unchanged. An engine in the same process notices nothing.
"""

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from triton.runtime.jit import KernelInterface

from bo_tune.kernels.vllm.installed import KERNELS_PACKAGE


class PrivateCopy:
    """Copies functions of vLLM's kernel modules, with everything in these modules that they call.

    Args:
        replacements: values that the copies find in place of vLLM's own, by name, in any of the modules.
        kernel: returns the stand-in for a Triton kernel that the copies launch.
    """

    def __init__(self, replacements: Mapping[str, object], kernel: Callable[[Any], object]) -> None:
        self._replacements = replacements
        self._kernel = kernel
        self._namespaces: dict[str, dict[str, Any]] = {}
        self._memories: list[dict[Any, Any]] = []

    def function(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the copy of a function without its decorators. So a cached function is run anew each time.

        Raises:
            TypeError: ``original`` is not a Python function below its decorators.
        """
        plain = inspect.unwrap(original)
        if not isinstance(plain, FunctionType):
            raise TypeError(f"{original!r} is not a Python function")
        namespace = self._namespace(plain.__module__, plain.__globals__)
        copy = FunctionType(plain.__code__, namespace, plain.__name__, plain.__defaults__, plain.__closure__)
        copy.__kwdefaults__ = plain.__kwdefaults__
        return copy

    def forget(self) -> None:
        """Empty the tables that the modules keep. One holds strides by address, and addresses are reused."""
        for memory in self._memories:
            memory.clear()

    def _namespace(self, module: str, original: dict[str, Any]) -> dict[str, Any]:
        known = self._namespaces.get(module)
        if known is None:
            known = self._namespaces[module] = {}
            known.update({name: self._counterpart(name, value) for name, value in original.items()})
        return known

    def _counterpart(self, name: str, value: Any) -> Any:
        if name in self._replacements:
            return self._replacements[name]
        if isinstance(value, KernelInterface):
            return self._kernel(value)
        if type(value) is dict and not name.startswith("__"):
            memory: dict[Any, Any] = {}
            self._memories.append(memory)
            return memory
        if callable(value) and not isinstance(value, type):
            plain = inspect.unwrap(value)
            if isinstance(plain, FunctionType) and plain.__module__.startswith(KERNELS_PACKAGE):
                return self.function(value)
        return value
