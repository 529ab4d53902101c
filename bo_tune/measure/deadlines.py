"""The deadlines of a device. Pure data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds after which a device gives up waiting.

    Attributes:
        compile_s: the longest a compile may take. The actual deadline adapts to what compiles take (``compile.times``).
        prepare_s: for making a problem's inputs, and for a batch of re-measured finalists.
        first_s: for the first measurement in a GPU process that was not warmed up and has cold caches. Also for a
            finalist timed alone after one of several broke the process.
        measure_s: for any other measurement. Checking and timing a config takes milliseconds, so anything this slow has
            hung.
    """

    compile_s: float = 8.0
    prepare_s: float = 180.0
    first_s: float = 30.0
    measure_s: float = 10.0

    @classmethod
    def compiling_in(cls, compile_s: float | None) -> "Deadlines":
        """Return the usual deadlines, with another one for compiles if it is given."""
        return cls() if compile_s is None else cls(compile_s=compile_s)
