"""A pack or a cache while it grows, and a summary of its content."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from bo_tune.display.console import is_live
from bo_tune.display.running.progress import LINE_EVERY_S, progress_bar
from bo_tune.formats.pack.contents import PackedBinary
from bo_tune.precompile.build import Packed
from bo_tune.precompile.warming import Warmed

MEGABYTE = 1e6


class PackProgress:
    """Shows how a pack grows: a bar in a terminal, otherwise a line now and then. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = progress_bar(console)
        self._task = self._progress.add_task("choosing", total=None, note="")
        self._printed_at = time.monotonic()

    def __enter__(self) -> "PackProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def choosing(self, done: int, of: int) -> None:
        """Show for how many problems the binaries have been put in order."""
        self._show("choosing", done, of, "")

    def warming(self, done: int, of: int) -> None:
        """Show how many binaries of a tuned folder are done."""
        self._show("binaries", done, of, "")

    def __call__(self, packed: Packed) -> None:
        """Show the progress."""
        left_s = packed.left_s
        note = f"{packed.compiled} compiled" + ("" if left_s is None else f", about {left_s:.0f} s left")
        self._show("binaries", packed.done, packed.of, note)

    def _show(self, what: str, done: int, of: int, note: str) -> None:
        self._progress.update(self._task, description=what, completed=done, total=of, note=note)
        now = time.monotonic()
        if not is_live(self._console) and now - self._printed_at >= LINE_EVERY_S:
            self._printed_at = now
            text = f"progress {done}/{of} {what}" + (f", {note}" if note else "")
            self._console.print(text, highlight=False, soft_wrap=True)


def pack_line(binaries: Sequence[PackedBinary], packed: Packed, pack_bytes: int) -> str:
    """Return the line that summarises a finished pack."""
    reasons = Counter(binary.reason for binary in binaries if binary.reason is not None)
    invalid = reasons.total()
    impossible = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return (
        f"{len(binaries) - invalid:,} binaries, and {invalid:,} that cannot be built"
        + (f" ({impossible})" if impossible else "")
        + f"; {packed.compiled:,} compiled in {packed.elapsed_s:.0f} s; {pack_bytes / MEGABYTE:.1f} MB"
    )


def warmed_lines(warmed: Warmed, cache: Path, folder: Path) -> Iterator[str]:
    """Yield what a cache now has of a tuned folder, and how the engine finds it."""
    compiled = warmed.binaries - warmed.there - len(warmed.failed)
    yield (
        f"{warmed.binaries:,} binaries: {compiled:,} compiled in {warmed.elapsed_s:.0f} s, {warmed.there:,} were there"
        + (f", {len(warmed.failed):,} cannot be compiled" if warmed.failed else "")
    )
    yield "start the engine with"
    yield f"  export TRITON_CACHE_DIR={shlex.quote(str(cache.absolute()))}"
    yield f"  export VLLM_TUNED_CONFIG_FOLDER={shlex.quote(str(folder.absolute()))}"
