"""``bo_tune.recorded`` with a GPU process without a GPU."""

import sys

from bo_tune import recorded
from bo_tune.measure.gpu import device


def main() -> None:
    """Tune as the child of a launch does."""
    device.GPU_MODULE = "fake_autotuned_gpu"
    recorded.main()


def tune(calls: str) -> None:
    """Tune as a script does, and print what comes of it."""
    device.GPU_MODULE = "fake_autotuned_gpu"
    for best in recorded.tune_recorded(calls, table="own.tuned.json", storage="sqlite:///own.db", jobs=1):
        sys.stdout.write(f"{best}\n")


if __name__ == "__main__":
    tune(*sys.argv[1:])
