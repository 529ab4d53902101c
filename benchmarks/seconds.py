"""Where a session's seconds go: trees of this project side by side, each on a GPU and an equal share of the cores.

``python benchmarks/seconds.py --tree new=. --tree old=DIR --study STUDY.toml --folder DIR --out FILE.json -- OPTIONS``
needs as many GPUs as there are trees. Each tree tunes the study from the command line in turn on every GPU: what
differs between GPUs and their cores then counts for all trees alike. Every database is new. The cache of binaries is
empty at first, and is kept for further sessions (``--sessions``). Moments are taken from outside, by what the command
leaves: Triton's first file is there when the first compile is under way.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STARTS = {
    "torch_s": "import torch",
    "cuda_s": "import time, torch; start = time.time(); torch.zeros(1, device='cuda'); print(time.time() - start)",
}
"""What every session has to wait for, and this project cannot change."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the host: a GPU and cores.

    Attributes:
        cores: as ``taskset`` takes them.
    """

    gpu: int
    cores: str

    def command(self, *words: str) -> list[str]:
        """Return a command that keeps to this part's cores."""
        return ["taskset", "-c", self.cores, sys.executable, *words]

    def environment(self, tree: Path, **more: str) -> dict[str, str]:
        """Return variables with which a tree's modules are found, and no GPU but this part's."""
        paths = [str(tree.resolve()), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "CUDA_VISIBLE_DEVICES": str(self.gpu), "PYTHONPATH": os.pathsep.join(paths), **more}


def shares(count: int) -> list[Share]:
    """Divide the host's cores among so many GPUs."""
    each = (os.cpu_count() or 1) // count
    return [Share(gpu, f"{gpu * each}-{(gpu + 1) * each - 1}") for gpu in range(count)]


def started(share: Share) -> dict[str, float]:
    """Time what nobody is spared: importing torch, and the start of CUDA, in seconds."""
    times = {}
    for name, code in STARTS.items():
        start = time.time()
        told = subprocess.run(share.command("-c", code), env=share.environment(Path()), check=True, capture_output=True)
        times[name] = round(float(told.stdout or time.time() - start), 3)
    return times


def tuned(share: Share, tree: Path, study: str, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Tune a study with a tree, and tell how long it took and what the session says of itself."""
    folder.mkdir(parents=True, exist_ok=True)
    cache, said = folder.parent / f"{folder.stem}.triton", folder / "said.json"
    before = set(cache.rglob("*"))
    words = ["-m", "bo_tune", "tune", study, "--storage", f"sqlite:///{folder / 'studies.db'}", "--json", str(said)]
    command = share.command(*words, "--out", str(folder / "tuned"), *options)
    environment = share.environment(tree, TRITON_CACHE_DIR=str(cache))
    start = time.time()
    with (folder / "log").open("wb") as log:
        ended = subprocess.run(command, env=environment, check=False, stdout=log, stderr=log, cwd=folder)
    wall_s = time.time() - start
    made = (file.stat().st_mtime for file in set(cache.rglob("*")) - before if file.is_file())
    first_s = min(made, default=start) - start
    return {
        "rc": ended.returncode,
        "wall_s": round(wall_s, 2),
        "first_compile_s": round(first_s, 2),
        "gpu": share.gpu,
        "session": json.loads(said.read_text())["session"] if said.exists() else {},
    }


@dataclass(frozen=True, slots=True)
class Run:
    """One session of a tree.

    Attributes:
        turn: on which of the host's parts.
        session: how many there were before it with its cache.
    """

    tree: str
    turn: int
    session: int
    row: dict[str, Any]

    def __str__(self) -> str:
        row, said = self.row, self.row["session"]
        told = {name: said.get(name) for name in ("wall_s", "trials", "tuner_ms_per_trial", "cpu_s")}
        name = f"{self.tree}, turn {self.turn}, session {self.session}"
        return f"{name}: {row['wall_s']} s, first compile {row['first_compile_s']} s, {told} {said.get('devices')}"


def in_turn(
    trees: Mapping[str, Path], study: str, folder: Path, options: Sequence[str], sessions: int
) -> Iterator[Run]:
    """Have every tree tune on every part of the host, all of them at the same time."""
    parts = shares(len(trees))
    shutil.rmtree(folder, ignore_errors=True)
    with ThreadPoolExecutor(len(trees)) as threads:
        for turn in range(len(trees)):
            for session in range(sessions):
                under_way = {}
                for place, (name, tree) in enumerate(trees.items()):
                    share = parts[(place + turn) % len(parts)]
                    where = folder / f"{name}-{turn}.{session}"
                    under_way[name] = threads.submit(tuned, share, tree, study, where, options)
                for name, found in under_way.items():
                    yield Run(name, turn, session, found.result())


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--study", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where databases and JSON are left")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=1, help="one after the other, with the cache of the first")
    parser.add_argument("options", nargs="*", help="of `bo-tune tune`, behind --")
    arguments = parser.parse_args()
    trees = {name: Path(tree) for name, _, tree in (word.partition("=") for word in arguments.tree)}
    starts = [started(share) for share in shares(len(trees))]
    print("starts", starts, flush=True)
    runs = []
    study, folder = str(Path(arguments.study).resolve()), arguments.folder.resolve()
    for run in in_turn(trees, study, folder, arguments.options, arguments.sessions):
        print(run, flush=True)
        runs.append(run)
    found = {
        "command": shlex.join(["python", *sys.argv]),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "starts": starts,
        "runs": [asdict(run) for run in runs],
    }
    arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
