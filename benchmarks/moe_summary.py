"""Print what a folder of tuned JSON says of the experts' adapters: who decided on block_m, and what it came to.

    python benchmarks/moe_summary.py tuned [sqlite:///studies.db]

Reads the provenance sidecars; a problem a line. With a database, a line more for each kernel that decided: its time
under every block_m. Exits with 1 if the four kernels of a problem do not agree on block_m.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from bo_tune.engines.folder import read_folder, read_provenance
from bo_tune.engines.provenance import Provenance
from bo_tune.kernels.registry import DECIDING, kernel_spec
from bo_tune.store.storage import StudyStore


def main() -> None:
    """Read the folder that the command line names."""
    folder = Path(sys.argv[1])
    groups: defaultdict[Any, list[Provenance]] = defaultdict(list)
    for name in read_folder(folder):
        for origin in read_provenance(folder / name).values():
            group = kernel_spec(origin.problem.kernel).joint_group(origin.problem)
            if group is not None and origin.joint is not None:
                groups[group].append(origin)
    ordered = sorted(groups.values(), key=lambda origins: (_rank(origins[0]), origins[0].problem.m))
    for origins in ordered:
        print(_line(origins))
    for line in _tried(sys.argv[2]) if len(sys.argv) > 2 else []:
        print(line)
    sys.exit(any(len({origin.config["block_m"] for origin in origins}) > 1 for origins in ordered))


def _tried(url: str) -> list[str]:
    """Return what the kernels that decide took in the studies of a database."""
    store = StudyStore(url, create=False)
    found = {}
    for name in (summary.name for summary in store.summaries() if summary.name.problem.kernel in DECIDING):
        trials = store.load(name).trials()
        times = {t.params["block_m"]: "wrong" if t.value is None else f"{t.value:.2f}" for t in trials}
        problem = name.problem
        at = ", ".join(f"{block_m}: {time}" for block_m, time in sorted(times.items()))
        found[problem.kernel, problem.k, problem.m] = (
            f"{problem.kernel} rank {problem.k} m {problem.m}, us by block_m: {at}"
        )
    store.close()
    return [found[key] for key in sorted(found)]


def _rank(origin: Provenance) -> int:
    (_, _, _, rank, *_) = kernel_spec(origin.problem.kernel).joint_group(origin.problem)
    return rank


def _line(origins: list[Provenance]) -> str:
    problem, joint = origins[0].problem, origins[0].joint
    start = f"rank {_rank(origins[0])} m {problem.m}: block_m {joint['block_m']}"
    parts = [("two kernels", joint)]
    if "decided_by" in joint:
        parts = [("one launch, which decided", joint["decided_by"]), ("two kernels under it", joint)]
    return f"{start}; " + "; ".join(f"{name}: {_times(times)}" for name, times in parts)


def _times(times: dict[str, Any]) -> str:
    before, after = times["default_time_us"], times["time_us"]
    return f"{after:.2f} us" if before is None else f"{before:.2f} -> {after:.2f} us ({before / after:.2f}x)"


if __name__ == "__main__":
    main()
