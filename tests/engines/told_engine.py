"""Stands in for ``kernels.vllm.wrapped`` in tests: answers what a file says, after a check of what it is asked."""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    told = json.loads(Path(os.environ["TOLD_ENGINE"]).read_text())
    asked = json.loads(sys.argv[1])
    assert told.pop("asked", asked) == asked, asked
    if "exit" in told:
        sys.stderr.write("something\nlast words\n")
        sys.exit(told["exit"])
    sys.stdout.write(json.dumps(told))
