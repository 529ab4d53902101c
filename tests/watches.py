"""GPUs that are watched by a script: what a ``GpuWatch`` says in tests."""

from collections.abc import Iterable

from bo_tune.measure.watch.neighbours import Reading, WatchError


class Scripted:
    """Says one reading after the other, and the last one for ever; where that is None, that it cannot be read."""

    def __init__(self, readings: Iterable[Reading | None], *, is_slice: bool = False) -> None:
        self._readings = list(readings)
        self.is_slice = is_slice
        self.reads = 0
        self.closed = False

    def says(self, reading: Reading | None) -> None:
        """Say this from now on."""
        self._readings = [reading]

    def read(self) -> Reading:
        """See ``GpuWatch``."""
        assert not self.closed
        self.reads += 1
        reading = self._readings[0]
        if len(self._readings) > 1:
            del self._readings[0]
        if reading is None:
            raise WatchError("gone")
        return reading

    def close(self) -> None:
        """See ``GpuWatch``."""
        self.closed = True


def using(*pids: int, percent: int | None = 0, **more: object) -> Reading:
    """Return a reading with these processes."""
    return Reading(frozenset(pids), utilisation_percent=percent, **more)  # type: ignore[arg-type]
