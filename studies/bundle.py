"""Writes ``bundled.json.gz`` anew: what of the recorded grids comes with the package, to teach studies."""

from pathlib import Path

from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.precompile.experience import recorded_history, recorded_name
from bo_tune.search.gp.prior import ROWS_PER_STUDY
from bo_tune.tuning.bundled import FILE, BundledGrid, packed

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "studies" / "recordings"


def grids() -> list[Recording]:
    """Return every recording of the project that teaches. The example kernels in ``own`` have nobody to teach."""
    folders = sorted({path.parent for path in RECORDED.rglob("*.json.gz")} - {RECORDED / "own"})
    return [recording for folder in folders for recording in read_recordings(folder)]


def bundled(recording: Recording) -> BundledGrid | None:
    """Return what is kept of a recording; None where it has too few times to teach."""
    history = recorded_history(recording)
    if history is None:
        return None
    kept = history.sample(ROWS_PER_STUDY)
    configs = [{name: int(value) for name, value in config.items()} for config in kept.configs]
    return BundledGrid(recorded_name(recording), recording.gpu, configs, [round(float(t), 3) for t in kept.times])


def main() -> None:
    """Write the file."""
    kept = [one for recording in grids() if (one := bundled(recording)) is not None]
    path = ROOT / "bo_tune" / "tuning" / FILE
    path.write_bytes(packed(kept))
    print(f"{path.name}: {len(kept)} grids, {sum(len(g.times_us) for g in kept)} trials, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
