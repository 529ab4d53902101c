"""Decides at the first launch of a key: looks up its winner, or else does what ``on_miss`` says."""

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.cache import get_cache_manager

from bo_tune.core.problem import Size
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.autotuned.calls import TYPES, CallWriter, RecordedCall, grids_of
from bo_tune.kernels.autotuned.child import tune_in_child
from bo_tune.kernels.autotuned.described import described, size_of, types_word
from bo_tune.kernels.autotuned.settings import Settings
from bo_tune.kernels.user import frozen
from bo_tune.kernels.user.check.memory import tensor_of
from bo_tune.kernels.user.definition import Params
from bo_tune.kernels.user.identity.home import file_of, home_of, uniquely_named
from bo_tune.processes.importing import is_importing

LOGGER = logging.getLogger("bo_tune")

_WRITERS: dict[Path, CallWriter] = {}
"""Writers of this process by folder. Kernels share a file."""

GIVEN_BY_TRITON = ("grid", "warmup")
"""Arguments that Triton adds to a call's own."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch for which no winner is known yet.

    Attributes:
        arguments: arguments by name, including options and the grid.
        left: the configs that pruning leaves.
    """

    arguments: Mapping[str, Any]
    left: Sequence[Any]


class Misses:
    """Decides for one kernel. Called under its lock."""

    def __init__(self, tuner: Any, settings: Settings) -> None:
        self._tuner, self._settings = tuner, settings
        self._is_told = False

    @cached_property
    def _name(self) -> str:
        """The kernel's name in tables, databases and files of calls. Raises InputError if it cannot be tuned."""
        return uniquely_named(self._tuner.definition).name

    def decide(self, arguments: Mapping[str, Any], left: Sequence[Any]) -> tuple[Any, bool]:
        """Return the config to launch with, and whether the next launch will use the same one.

        Raises:
            InputError: there is no winner and that is an error, or the table cannot be read.
        """
        launch = Launch(arguments, left)
        if len(left) == 1 or is_importing():  # nobody waits for a launch during an import for tuning
            return left[0], len(left) == 1
        settings = self._settings.in_environment()
        try:
            return self._found(launch, settings)
        except _NotDescribedError as error:
            if settings.on_miss == "error":
                raise InputError(str(error)) from None
            self._tell(str(error))
            return left[0], True

    def has_entries(self) -> bool:
        """Say whether the table has an entry for this kernel on this GPU. Raises InputError for a broken table."""
        try:
            return bool(self._entries(self._table(self._settings.in_environment())))
        except _NotDescribedError:
            return False

    def place_in_table(self, key: Mapping[str, Any], types: Sequence[torch.dtype]) -> int:
        """Return the place of the table's config for a key, or of the nearest if settings say so; -1 for none."""
        settings = self._settings.in_environment()
        table = self._table(settings)
        entries = self._entries(table)
        try:
            sizes = {name: size_of(described(name, value, {})) for name, value in key.items()}
        except InputError:  # no table has an entry for it
            return -1
        whole = {**sizes, TYPES: types_word(str(one).removeprefix("torch.") for one in types)}
        alike = [one for one in entries if all(one.sizes.get(name) == size for name, size in sizes.items())]
        # The types of tensors behind descriptors cannot be seen.
        exact = frozen.exact(entries, whole) or (alike[0] if len(alike) == 1 else None)
        near = frozen.by_distance(entries, whole) if settings.on_miss == "nearest" else iter(())
        configs = list(self._tuner.configs)
        for entry in (exact, *near):
            config = self._usable(entry, configs, table)
            if config is not None:
                return configs.index(config)
        return -1

    def _entries(self, table: Path | None) -> Sequence[frozen.Entry]:
        if table is None or not table.is_file():
            return []
        return frozen.entries_of(self._described(lambda: self._name), frozen.gpu_at_hand(), table)

    def _found(self, launch: Launch, settings: Settings) -> tuple[Any, bool]:
        sizes = self._described(lambda: self._sizes(launch))
        table = self._table(settings)
        entries = self._entries(table)
        exact = self._usable(frozen.exact(entries, sizes), launch.left, table)
        if exact is not None:
            return exact, True
        return self._without(launch, settings, sizes, entries, table)

    def _without(
        self,
        launch: Launch,
        settings: Settings,
        sizes: Mapping[str, Size],
        entries: Sequence[frozen.Entry],
        table: Path | None,
    ) -> tuple[Any, bool]:
        """Do what ``on_miss`` says if no table has exactly these sizes."""
        name = self._tuner.base_fn.__name__
        default = launch.left[0]
        match settings.on_miss:
            case "error":
                raise InputError(
                    f"{name}: {table} has no entry for {shown(sizes)}; record the call, and tune what was recorded"
                )
            case "nearest":
                near = (self._usable(entry, launch.left, table) for entry in frozen.by_distance(entries, sizes))
                return next((config for config in near if config is not None), default), True
            case "record":
                self._note(launch, settings)
            case "tune":
                if is_capturing():
                    LOGGER.info("%s: running its default config, because a CUDA graph is being captured", name)
                    return default, False
                if triton.knobs.runtime.interpret:
                    LOGGER.info(
                        "%s: running its default config, because nothing is tuned under Triton's interpreter", name
                    )
                    return default, True
                return self._tuned(launch, settings, table) or default, True
        return default, True

    def _note(self, launch: Launch, settings: Settings) -> None:
        call = self._described(lambda: self._call(launch))
        assert settings.calls is not None
        writer = _WRITERS.setdefault(settings.calls, CallWriter(settings.calls))
        try:
            writer.write(call)
        except InputError as error:
            self._tell(str(error))

    def _tuned(self, launch: Launch, settings: Settings, table: Path | None) -> Any:
        """Return the config that a separate session finds. If it fails, warn and return None."""
        call = self._described(lambda: self._call(launch))
        named = settings.table or (self._cached_table() if settings.keeps else None)
        try:
            entry = tune_in_child(call, self._name, settings, named, _gpu_index())
        except InputError as error:
            self._tell(f"{one_line(error)}: running its default config")
            return None
        return self._usable(entry, launch.left, named or table)

    def _usable(self, entry: frozen.Entry | None, left: Sequence[Any], table: Path | None) -> Any:
        """Return the config of an entry if it may run, else None. A table may be older than the kernel."""
        if entry is None:
            return None
        kernel = self._tuner.definition
        try:
            params = frozen.params_of(kernel, entry, table or Path())
        except InputError as error:
            self._tell(one_line(error))
            return None
        return next((config for config in left if params_of(config, kernel.values) == dict(params)), None)

    def _sizes(self, launch: Launch) -> dict[str, Size]:
        """Return the sizes to look up a launch's winner under, as ``RecordedCall.sizes`` does. Raises InputError."""
        kernel = self._tuner.definition
        given = {n: launch.arguments[n] for n in self._tuner.arg_names if n in launch.arguments}
        tensors = [tensor_of(value) for name, value in given.items() if name not in kernel.values]
        types = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor is not None]
        key = {name: size_of(described(name, given[name], {})) for name in self._tuner.keys if name in given}
        return {**key, TYPES: types_word(types)}

    def _call(self, launch: Launch) -> RecordedCall:
        """Describe a launch. Raises InputError if an argument could not be made again."""
        tuner, known = self._tuner, dict[int, str]()
        kernel = tuner.definition
        given = {n: launch.arguments[n] for n in tuner.arg_names if n in launch.arguments and n not in kernel.values}
        options = {n: v for n, v in launch.arguments.items() if n not in tuner.arg_names and n not in GIVEN_BY_TRITON}
        arguments = {name: described(name, value, known) for name, value in given.items()}
        grids, grid_of = grids_of(self._grids(launch))
        return RecordedCall(
            home=home_of(kernel),
            kernel=self._name,
            key=tuple(name for name in tuner.keys if name in arguments),
            arguments=arguments,
            options={name: described(name, value, known) for name, value in options.items()},
            grids=grids,
            grid_of=grid_of,
            gpu=frozen.gpu_at_hand(),
        )

    def _grids(self, launch: Launch) -> list[tuple[int, ...] | None]:
        """Return the grid of each config of the kernel's list; None for those that pruning leaves out."""
        kernel, grid = self._tuner.definition, launch.arguments["grid"]
        found: list[tuple[int, ...] | None] = [None] * len(kernel.listed)
        places = {_place(params, kernel.values): place for place, params in enumerate(kernel.listed)}
        for config in launch.left:
            chosen = config.all_kwargs()
            axes = grid({**launch.arguments, **chosen}) if callable(grid) else grid
            axes = axes if isinstance(axes, (tuple, list)) else (axes,)
            place = places.get(_place(params_of(config, kernel.values), kernel.values))
            if place is not None and all(int(axis) > 0 for axis in axes):
                found[place] = tuple(map(int, axes))
        return found

    def _table(self, settings: Settings) -> Path | None:
        """Return the table to read: the one that was named, the one in Triton's cache, or the one beside the module."""
        if settings.table is not None:
            return settings.table
        kept = self._cached_table() if settings.keeps else None
        if kept is not None and kept.is_file():
            return kept
        try:
            return file_of(self._tuner.definition).with_suffix(frozen.SUFFIX)
        except InputError:  # a kernel of no module
            return None

    def _cached_table(self) -> Path | None:
        """Return a file in Triton's cache for this code and toolchain; None if the cache is not a folder."""
        folder = getattr(get_cache_manager(kept_under(self._tuner)), "cache_dir", None)
        return None if folder is None else Path(folder) / f"winners{frozen.SUFFIX}"

    def _described(self, ask: Any) -> Any:
        """Call a function that describes the kernel or a launch. Raises _NotDescribedError if it fails."""
        try:
            return ask()
        except InputError as error:
            raise _NotDescribedError(f"{one_line(error)}: running its default config") from error

    def _tell(self, line: str) -> None:
        """Warn in one line, once per kernel."""
        if not self._is_told:
            self._is_told = True
            warnings.warn(f"bo_tune: {self._tuner.base_fn.__name__}: {line}", RuntimeWarning, stacklevel=5)


class _NotDescribedError(Exception):
    """A kernel or its call cannot be described to another process."""


def params_of(config: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a ``triton.Config``, in the order of the space."""
    said = config.all_kwargs()
    usual = {"num_ctas": 1, "maxnreg": None}
    return {name: said.get(name, usual.get(name)) for name in names}


def _place(params: Params, names: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(params[name] for name in names)


def is_capturing() -> bool:
    """Say whether a CUDA graph is being captured on the current stream."""
    return frozen.is_gpu_in_use() and torch.cuda.is_current_stream_capturing()


def shown(sizes: Mapping[str, Size]) -> str:
    """Format sizes for a message."""
    return " ".join(f"{name}={size}" for name, size in sizes.items())


def kept_under(tuner: Any) -> str:
    """Return the key under which Triton's cache keeps a kernel's winners."""
    said = [triton.__version__, torch.__version__, tuner.jit.cache_key, *map(str, tuner.configs)]
    return hashlib.sha256("-".join(said).encode()).hexdigest()


def _gpu_index() -> int:
    return torch.cuda.current_device() if frozen.is_gpu_in_use() else 0
