"""Changes modules once they have been imported, without importing them.

Uses only the standard library, because it runs inside a serving engine.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Change = Callable[[ModuleType], None]
"""Changes a module. Must not raise."""


class AfterImport(MetaPathFinder):
    """Changes modules as soon as they exist: at once if they are imported already, else right after their import.

    Args:
        changes: changes by full module name.
        failed: called with the error if the import of a module cannot be watched.
    """

    def __init__(self, changes: Mapping[str, Change], failed: Callable[[Exception], None]) -> None:
        self._changes, self._failed = dict(changes), failed

    def install(self) -> None:
        """Change modules that are imported already, and watch for the others."""
        sys.meta_path.insert(0, self)
        for name in list(self._changes):
            module = sys.modules.get(name)
            if module is not None and (change := self._changes.pop(name, None)):
                change(module)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as the other finders do, and arrange for its change after it has run."""
        if fullname not in self._changes:
            return None
        try:
            spec = self._found(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._watch(spec, fullname)
        except Exception as error:  # noqa: BLE001 - the import goes on without this finder
            self._failed(error)
            return None
        return spec

    def _found(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                return spec
        return None

    def _watch(self, spec: ModuleSpec, name: str) -> None:
        loader = spec.loader
        run = loader.exec_module  # type: ignore[union-attr]

        def run_and_change(module: ModuleType) -> None:
            run(module)
            if change := self._changes.pop(name, None):
                change(module)

        # Set it on the loader itself, which belongs to this module alone. Its source stays available to others.
        loader.exec_module = run_and_change  # type: ignore[union-attr, method-assign]
