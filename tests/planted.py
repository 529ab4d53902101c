"""A folder full of files that are named like modules: whoever imports from it is found out."""

import sys
from collections.abc import Iterable
from pathlib import Path

OTHERS = ("numpy", "optuna", "pydantic", "scipy", "sqlalchemy", "torch", "triton", "typer", "typing_extensions")
"""Besides those of the standard library."""

LOG = "ran.txt"


class Planted:
    """Modules in a folder that leave their names there when they are run."""

    def __init__(self, folder: Path, names: Iterable[str] = (*sys.stdlib_module_names, *OTHERS)) -> None:
        self._log = folder / LOG
        for name in names:
            (folder / f"{name}.py").write_text(f"open({str(self._log)!r}, 'a').write(__name__ + '\\n')\n")

    @property
    def ran(self) -> list[str]:
        """Those that were run so far."""
        return self._log.read_text().split() if self._log.exists() else []
