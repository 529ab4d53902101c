"""How long a device waits. Pure data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds after which what a device waits for is given up.

    Attributes:
        compile_s: of a compile, at most; it adapts to what compiles take (``compile.times``).
        prepare_s: of a problem's inputs, and of a batch of re-measuring finalists.
        first_s: of the first measurement in a GPU process that could not be warmed up, and finds its caches cold; and
            of a finalist alone, where one of several broke the process.
        measure_s: of any other. A config's check and repetitions take milliseconds; what takes this long hangs.
    """

    compile_s: float = 8.0
    prepare_s: float = 180.0
    first_s: float = 30.0
    measure_s: float = 10.0

    @classmethod
    def compiling_in(cls, compile_s: float | None) -> "Deadlines":
        """Return the usual deadlines, but for that of a compile where one is given."""
        return cls() if compile_s is None else cls(compile_s=compile_s)
