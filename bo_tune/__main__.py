"""``python -m bo_tune``."""

import os

from bo_tune.processes.interpreter import drop_current_folder

# Python has put the current folder first. Not by pathlib, which would be looked for there.
PACKAGE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120
drop_current_folder(os.getcwd(), os.path.dirname(PACKAGE))  # noqa: PTH109, PTH120

from bo_tune.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
