"""The meaning of a command's exit code, the same for all commands."""

DONE = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

MEANINGS = {
    DONE: "done",
    FAILED: "a failed study or check, faults, nothing to compare, or stdout lost",
    BAD_INPUT: "bad input, or no usable GPU; one line on stderr says what is wrong",
    INTERRUPTED: "interrupted; recorded trials are kept, and the same command resumes",
}
