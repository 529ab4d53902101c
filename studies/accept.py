"""Takes tuned folders into ``studies/folders``, after a check, and without what their sidecars tell of finalists.

    python studies/accept.py tuned llama-3.1-8b

``studies/folders/llama-3.1-8b/study.toml`` says what the folder must answer. Files of other GPUs that are there stay.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bo_tune.engines.check import check_folder
from bo_tune.engines.folder import table_paths
from bo_tune.engines.provenance import PROVENANCE_SCHEMA_VERSION, provenance_path
from bo_tune.errors import BoTuneError, InputError
from bo_tune.formats.study_file import load_study_file

FOLDERS = Path(__file__).parent / "folders"

DIGITS = 5
"""Significant digits of a time."""


def rounded(value: Any) -> Any:
    """Round all floats of a JSON value."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def shortened(sidecar: str) -> str:
    """Return a sidecar without the times of all finalists, one line for each entry."""
    entries = json.loads(sidecar)["entries"]
    lines = []
    for keys, entry in entries.items():
        if entry.get("in_place"):
            entry["in_place"] = {name: value for name, value in entry["in_place"].items() if name != "finalists"}
        lines.append(f"{json.dumps(keys)}: {json.dumps(rounded(entry), separators=(',', ':'))}")
    inside = ",\n".join(lines)
    return f'{{"schema_version": {PROVENANCE_SCHEMA_VERSION}, "entries": {{\n{inside}\n}}}}\n'


def accept(tuned: Path, name: str) -> list[Path]:
    """Check a tuned folder and write its files; return their paths.

    Raises:
        InputError: the folder has no sidecars, or a lookup of an engine start fails or takes what is not meant for it.
    """
    out = FOLDERS / name
    model = load_study_file(out / "study.toml").model
    if model is None:
        raise InputError(f"{out / 'study.toml'}: names no model")
    tables = table_paths(tuned)
    without = [path.name for path in tables if not provenance_path(path).exists()]
    if without:
        raise InputError(f"{tuned}: {without[0]} has no sidecar, so nobody could tell where its entries come from")
    faults = check_folder(tuned, model, max_batched_tokens=model.most_tokens).faults
    if faults:
        raise InputError(f"{tuned}: {len(faults)} faults, the first: {next(iter(faults)).reason}")
    written = []
    for table in tables:
        sidecar = provenance_path(table)
        for path, text in ((table, table.read_text()), (sidecar, shortened(sidecar.read_text()))):
            written.append(out / path.name)
            written[-1].write_text(text)
    return written


def main() -> None:
    """Accept what the command line names."""
    if len(sys.argv) != 3:
        sys.exit("usage: python studies/accept.py TUNED NAME")
    try:
        written = accept(Path(sys.argv[1]), sys.argv[2])
    except BoTuneError as error:
        sys.exit(str(error))
    print(f"{sys.argv[2]}: {len(written)} files, {sum(path.stat().st_size for path in written) >> 10} KiB")


if __name__ == "__main__":
    main()
