"""Print a Markdown table of a model study's results: default time / tuned time (us), a layer a row, an m a column.

Usage: ``python benchmarks/layers.py studies/llama-3.1-8b.toml sqlite:///bo_tune.db``
"""

import sys
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean

from bo_tune.formats.study_file import load_study_file
from bo_tune.store.attributes import RESULT_ATTR
from bo_tune.store.results import StudyResult
from bo_tune.store.storage import StudyStore


def main() -> None:
    """Read the study file and the database named on the command line."""
    study, store = load_study_file(Path(sys.argv[1])), StudyStore(sys.argv[2], create=False)
    results = {s.name.problem: StudyResult.from_json(s.attributes[RESULT_ATTR]) for s in store.summaries()}
    rows: dict[tuple[str, str], dict[int, StudyResult]] = defaultdict(dict)
    for problem, layers in study.problems_by_layer().items():
        for layer in layers:
            rows[problem.kernel, layer][problem.m] = results[problem]
    ms = sorted({m for row in rows.values() for m in row})
    print("| kernel | layer |", " | ".join(f"m {m}" for m in ms), "| geomean |")
    print("|---|---|" + "---|" * (len(ms) + 1))
    for (kernel, layer), row in rows.items():
        cells = [f"{row[m].default_time_us:.1f} / {row[m].time_us:.1f}" for m in ms]
        gain = geometric_mean([row[m].default_time_us / row[m].time_us for m in ms])
        print(f"| {kernel} | {layer} |", " | ".join(cells), f"| **{gain:.2f}×** |")


if __name__ == "__main__":
    main()
