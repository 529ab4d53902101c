"""Records what the pages about kernels of one's own replay without a GPU. It needs one, for some minutes.

    python benchmarks/record_own.py --out studies/recordings/own

That is the whole grid of ``examples/layer_norm.py`` on one problem, and the calls of ``examples/drop_in.py`` with the
whole grid of each. Run it in the repository's folder: recorded calls name the example by its path from there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import bo_tune
from bo_tune.kernels.autotuned.calls import SUFFIX
from bo_tune.processes.importing import import_source

EXAMPLE = Path("examples") / "drop_in.py"
ROWS_AND_COLS = {"rows": 4096, "cols": 1024}


def record_calls(folder: Path) -> Path:
    """Run the example, and return the file of its calls."""
    environment = {**os.environ, "BO_TUNE_ON_MISS": "record", "BO_TUNE_CALLS": str(folder)}
    subprocess.run([sys.executable, str(EXAMPLE)], env=environment, check=True)
    (own,) = folder.glob(f"*{SUFFIX}")
    lines = [{**json.loads(line), "home": str(EXAMPLE)} for line in own.read_text().splitlines()]
    path = folder / f"drop_in{SUFFIX}"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if own != path:
        own.unlink()
    return path


def main() -> None:
    """Record both, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    begun = time.perf_counter()
    for old in out.glob(f"*{SUFFIX}"):
        old.unlink()
    calls = record_calls(out)
    found = bo_tune.tune_recorded(calls, record=out, progress=False)
    layer_norm = import_source(str(Path("examples") / "layer_norm.py")).layer_norm_backward
    found += bo_tune.grid(layer_norm, [ROWS_AND_COLS], record=out, progress=False)
    for best in found:
        print(best)
    kib = {path.name: path.stat().st_size >> 10 for path in sorted(out.iterdir())}
    print(f"{time.perf_counter() - begun:.0f} s; KiB: {kib}")


if __name__ == "__main__":
    main()
