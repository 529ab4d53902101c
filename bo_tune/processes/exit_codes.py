"""The meaning of a command's exit code, the same for all commands."""

DONE = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

MEANINGS = {
    DONE: "done",
    FAILED: "a study or a check failed, faults found, nothing to compare, stdout lost",
    BAD_INPUT: "bad input, or no usable GPU: one line on stderr says what",
    INTERRUPTED: "interrupted: recorded trials are kept, and the same command goes on",
}
