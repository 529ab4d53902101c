"""Puts the study files, models and recordings of ``studies/`` into the wheel, as ``bo_tune/studies``.

They lie in the tree once. An editable install gets none of them: it has the tree.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ENDINGS = (".toml", ".json", ".json.gz", ".jsonl", ".md")


class StudiesHook(BuildHookInterface[Any]):
    """Adds files to a wheel. See hatchling's *build hooks*."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files, unless the wheel is an editable one."""
        if version == "editable":
            return
        root = Path(self.root)
        for path in sorted((root / "studies").rglob("*")):
            if path.is_file() and path.name.endswith(ENDINGS):
                inside = path.relative_to(root).as_posix()
                build_data["force_include"][str(path)] = f"bo_tune/{inside}"
