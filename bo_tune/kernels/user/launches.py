"""Finds out what a callable launches, without launching.

The callable is run with tensors that hold nothing, and Triton's launches are noted instead of made. This finds all
kernels to compile for a config if the callable decides on launches by sizes and config alone. If it reads values of its
tensors, asks the GPU, or uses the result of a launch, only the launches up to that point are found. The rest is
compiled by its first launch, in the GPU process and within the deadline of a measurement.
"""

import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from bo_tune.errors import InputError, one_line
from bo_tune.kernels.call import KernelCall

WRONG = (LookupError, NameError, TypeError, SyntaxError, ImportError)
"""Errors that mean that a callable is wrong, and not only that nothing was launched."""

ANY_GRID = (1, 1, 1)
"""The grid does not matter to what is compiled."""

_ONE_AT_A_TIME = threading.Lock()


class _AskedBackError(Exception):
    """A callable wants an answer from Triton that only a launch could give."""


@dataclass(frozen=True, slots=True)
class Told:
    """The launches of a callable for a config.

    Attributes:
        calls: each kernel with its compiled-in values, once.
        untold: why there may be further launches; empty if there are none.
        programs: of every launch; 0 where the grid cannot be told.
    """

    calls: tuple[KernelCall, ...]
    untold: str = ""
    programs: tuple[int, ...] = ()

    def specialisation(self) -> Hashable:
        """Return the known compiled-in values. They are equal if the same binaries are launched, as far as is known."""
        return tuple(call.specialisation() for call in self.calls)


def told_launches(run: Callable[[], object], name: str) -> Told:
    """Run a callable, and return what it would launch.

    Args:
        run: the callable, with tensors on the meta device.
        name: name of the operation, for messages.

    Raises:
        InputError: the callable is wrong, or launches a kernel that tunes itself.
    """
    noted, untold = _Noted(), ""
    with _noting(noted, name):
        try:
            run()
        except InputError:
            raise
        except WRONG as error:
            raise InputError(f"{name}: run: {type(error).__name__}: {one_line(error)}") from error
        except Exception as error:  # noqa: BLE001 - whatever empty tensors lead to
            untold = f"{type(error).__name__}: {one_line(error)}"
    return Told(tuple(noted.calls.values()), untold, tuple(noted.programs))


@dataclass(slots=True)
class _Noted:
    """What is known so far.

    Attributes:
        calls: by binary.
        programs: of every launch.
    """

    calls: dict[Hashable, KernelCall] = field(default_factory=dict)
    programs: list[int] = field(default_factory=list)


@contextmanager
def _noting(noted: _Noted, name: str) -> Iterator[None]:
    """Note Triton's launches inside the context."""

    def note(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if warmup:
            raise _AskedBackError(f"{kernel.__name__} is compiled with warmup(), which needs the GPU")
        call = KernelCall(kernel, ANY_GRID, arguments, options)
        noted.calls.setdefault(call.specialisation(), call)
        noted.programs.append(_programs(grid, {**dict(zip(kernel.arg_names, arguments, strict=False)), **options}))

    def refusing(tune: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(tuner: Any, *arguments: Any, **options: Any) -> Any:
            if len(tuner.configs) > 1:
                kernel = tuner.base_fn.__name__
                raise InputError(
                    f"{name}: run: {kernel} is under an autotuner; launch it without one, with the given config"
                )
            return tune(tuner, *arguments, **options)

        return refuse

    with _ONE_AT_A_TIME:
        before = {kind: kind.run for kind in (JITFunction, *_autotuners())}
        for kind, run in before.items():
            kind.run = note if kind is JITFunction else refusing(run)
        try:
            yield
        finally:
            for kind, run in before.items():
                kind.run = run


def _programs(grid: Any, arguments: Mapping[str, Any]) -> int:
    """Return the number of programs of a grid, which may be a function of the launch's arguments."""
    try:
        return int(prod(grid(arguments) if callable(grid) else grid))
    except Exception:  # noqa: BLE001 - the author's function may ask the GPU, and nothing depends on the answer
        return 0


def _autotuners() -> list[Any]:
    """Return Triton's autotuner, and this package's if the callable may use it."""
    own = sys.modules.get("bo_tune.kernels.autotuned.tuner")
    return [Autotuner] if own is None else [Autotuner, own.Autotuned]
