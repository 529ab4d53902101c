"""The decorator. A launch costs one look-up in a dict; the first launch of a key also one in a table (``misses``)."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.runtime.autotuner import Autotuner, Config
from triton.runtime.errors import AutotunerError
from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune.errors import InputError
from bo_tune.kernels.autotuned.compiled import chosen_by_table
from bo_tune.kernels.autotuned.misses import Misses
from bo_tune.kernels.autotuned.settings import OnMiss, Settings, checked
from bo_tune.kernels.spec import LAUNCH_OPTIONS
from bo_tune.kernels.user.decorated import Pruning, undecorated
from bo_tune.kernels.user.definition import Definition, Space

MOST_CONFIGS = 20_000
"""Most configs of a space."""


class Autotuned(Autotuner):  # type: ignore[misc]  # Triton has no types
    """A kernel under ``bo_tune.autotune``. It is an ``Autotuner`` for others, but never measures in this process."""

    def __init__(
        self,
        fn: Any,
        configs: Sequence[Config],
        key: Sequence[str],
        settings: Settings,
        *,
        outputs: Sequence[str] = (),
        fill: Callable[[dict[str, Any]], object] | None = None,
        prune_configs_by: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        said = {name: more.pop(name, None) for name in ("reset_to_zero", "restore_value")}
        super().__init__(
            fn, fn.arg_names, list(configs), list(key), said["reset_to_zero"], said["restore_value"], **more
        )
        self.outputs, self.fill = tuple(outputs), fill
        by = prune_configs_by or {}
        self.pruning = Pruning(by.get("early_config_prune"), by.get("perf_model"), by.get("top_k", 1.0))
        self.jit = undecorated(fn).function
        self._places = {name: place for place, name in enumerate(self.arg_names)}
        self._key_places = tuple(self._places[name] for name in self.keys if name in self._places)
        self._winners: dict[Any, tuple[Config, dict[str, Any]]] = {}
        self._lock = threading.RLock()
        self._misses = Misses(self, replace(settings, keeps=self.cache_results))
        # PyTorch's compiler reads these, and measures the configs that they leave.
        self.early_config_prune = chosen_by_table(self._misses, tuple(self.arg_names), tuple(self.keys), self.pruning)
        self.perf_model, self.configs_top_k = None, 1.0

    @cached_property
    def definition(self) -> Definition:
        """The definition to tune. Raises InputError if the kernel cannot be tuned."""
        # Only a launch without a winner needs the description for other processes.
        from bo_tune.kernels.autotuned.definition import defined  # noqa: PLC0415

        return defined(self, outputs=self.outputs, fill=self.fill)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Autotuned":
        """Return the same object: a kernel stays one, however often its holder is copied."""
        return self

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Launch with the winner of the call's key. Raises InputError if none is known and that is an error."""
        if len(self.configs) > 1:
            winner = self._winners.get(self._key_of(args, kwargs))
            config, chosen = self._decided(args, kwargs) if winner is None else winner
        else:
            config = self.configs[0]
            chosen = config.all_kwargs()
        self.best_config = config
        if config.pre_hook is not None:
            config.pre_hook({**dict(zip(self.arg_names, args, strict=False)), **kwargs, **chosen})
        return self.fn.run(*args, **kwargs, **chosen)

    def prune_configs(self, kwargs: dict[str, Any]) -> Sequence[Config]:
        """Return the configs that the author's pruning leaves. Raises AutotunerError if none is left."""
        try:
            return self.pruning.left(self.configs, self.nargs, kwargs)
        except ValueError as error:
            raise AutotunerError(f"{self.base_fn.__name__}: prune_configs_by: {error}") from error

    def _key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return what tells calls apart: the key's values, and the types of all tensors, as in Triton's autotuner."""
        count = len(args)
        if len(kwargs) == 2 and "grid" in kwargs and "warmup" in kwargs:  # as in every launch
            values = [args[place] if place < count else None for place in self._key_places]
            types = [a.base.dtype if type(a) is TensorDescriptor else getattr(a, "dtype", None) for a in args]
            return (*values, *types)
        given = [*args, *[kwargs.get(name) for name in self.arg_names[count:]]]
        values = [given[place] for place in self._key_places]
        types = [a.base.dtype if type(a) is TensorDescriptor else getattr(a, "dtype", None) for a in given]
        return (*values, *types)

    def _decided(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
        """Find the config of a key at its first launch. Threads that launch the same wait for it."""
        key = self._key_of(args, kwargs)
        with self._lock:
            if key not in self._winners:
                self.nargs = dict(zip(self.arg_names, args, strict=False))
                config, is_final = self._misses.decide({**self.nargs, **kwargs}, self.prune_configs(kwargs))
                self.nargs = {}
                winner = config, config.all_kwargs()
                if not is_final:
                    return winner
                self._winners[key] = winner
                self.cache[key] = config  # for others who look there
            return self._winners[key]


def autotune(
    configs: Space,
    key: Sequence[str],
    prune_configs_by: Mapping[str, Any] | None = None,
    reset_to_zero: Sequence[str] | None = None,
    restore_value: Sequence[str] | None = None,
    pre_hook: Callable[..., Any] | None = None,
    post_hook: Callable[..., Any] | None = None,
    warmup: int | None = None,  # noqa: ARG001 - Triton's signature
    rep: int | None = None,  # noqa: ARG001
    use_cuda_graph: bool = False,
    do_bench: Callable[..., Any] | None = None,
    cache_results: bool = False,
    *,
    storage: str | None = None,
    on_miss: OnMiss = "tune",
    table: str | Path | None = None,
    calls: str | Path | None = None,
    outputs: str | Sequence[str] = (),
    fill: Callable[[dict[str, Any]], object] | None = None,
) -> Callable[[Any], Autotuned]:
    """Stand in for ``triton.autotune``: the same arguments, but a launch looks up its config and measures nothing.

    The winner of a key is looked up at its first launch, in a table that ``freeze`` wrote. If there is none,
    ``on_miss`` decides. Environment variables replace the arguments: ``BO_TUNE_ON_MISS``, ``BO_TUNE_TABLE``,
    ``BO_TUNE_STORAGE``, ``BO_TUNE_CALLS``.

    Args:
        configs: a list of ``triton.Config`` or mappings; or values by parameter, all combinations of which are configs.
        key: names of the arguments whose values tell problems apart.
        prune_configs_by, reset_to_zero, restore_value: as in Triton.
        pre_hook, post_hook: as in Triton. A kernel that has one cannot be tuned, but its table is read.
        use_cuda_graph: measure in CUDA graphs (``timing="graph"``).
        warmup, rep, do_bench: not used; the noise decides how long to measure.
        cache_results: keep the results of ``on_miss="tune"`` in Triton's cache if no table is named.
        storage: URL of the database for the measurements of ``on_miss="tune"``. By default they are not kept.
        on_miss: ``default`` (the first config that pruning leaves, or the middle of a space), ``nearest`` (the table's
            nearest entry, see ``frozen``, else the default), ``tune`` (tune here and now in a child process; during the
            capture of a CUDA graph, run the default), ``record`` (note the call for ``tune_recorded`` and run the
            default), ``error``.
        table: the JSON file with the winners; by default the one beside the module (``softmax.tuned.json``).
        calls: the folder for ``record``; by default ``bo_tune-calls`` in the current folder.
        outputs: names of the arguments that the kernel writes. By default every tensor argument is compared.
        fill: ``arguments -> None``, called with the arguments made for a recorded call (random numbers, and integers
            that are zero), to write the values that the kernel needs into them.

    Raises:
        InputError: these do not fit together, or the function cannot be tuned.
    """
    settings = Settings(
        checked(on_miss),
        None if table is None else Path(table),
        storage,
        None if calls is None else Path(calls),
        "graph" if use_cuda_graph else "cold",
    )

    def decorate(function: Any) -> Autotuned:
        decorated = undecorated(function)
        if decorated.configs is not None:
            raise InputError(f"{decorated.name}: another autotuner already wraps this kernel; remove one of them")
        return Autotuned(
            function,
            triton_configs(configs),
            (key,) if isinstance(key, str) else key,
            settings,
            outputs=(outputs,) if isinstance(outputs, str) else outputs,
            fill=fill,
            reset_to_zero=reset_to_zero,
            restore_value=restore_value,
            pre_hook=pre_hook,
            post_hook=post_hook,
            prune_configs_by=prune_configs_by,
            do_bench=do_bench,
            cache_results=cache_results,
        )

    return decorate


def triton_configs(space: Space) -> list[Config]:
    """Return a list of configs, or all combinations of values by parameter, nearest to the middle first.

    Raises:
        InputError: there are too many, or the space is invalid.
    """
    if not isinstance(space, Mapping):
        return [one if isinstance(one, Config) else _config(one) for one in space]
    each = [tuple(values) for values in space.values()]
    count = 1
    for name, values in space.items():
        count *= len(values)
        if not values or count > MOST_CONFIGS:
            raise InputError(f"configs: {name}: {'no values' if not values else f'more than {MOST_CONFIGS} configs'}")
    places = sorted(
        product(*(range(len(values)) for values in each)),
        key=lambda one: sum(abs(2 * place + 1 - len(v)) / len(v) for place, v in zip(one, each, strict=True)),
    )
    return [_config({n: v[p] for n, v, p in zip(space, each, one, strict=True)}) for one in places]


def _config(params: Any) -> Config:
    if not isinstance(params, Mapping):
        raise InputError(f"configs: expected values by parameter, or a list of configs, got a list with {params!r}")
    options = {name: value for name, value in params.items() if name in LAUNCH_OPTIONS}
    return triton.Config({name: value for name, value in params.items() if name not in options}, **options)
