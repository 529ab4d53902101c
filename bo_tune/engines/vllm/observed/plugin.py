"""The plugin's entry point, which vLLM calls in each of its processes (group ``vllm.general_plugins``).

Uses only the standard library, because it runs inside a serving engine.
"""

import logging
import os
import sys
from pathlib import Path

from bo_tune.engines.vllm.observed.names import VARIABLE

_installed = False


def observe() -> None:
    """Record the lookups of this process if ``BO_TUNE_LOOKUPS`` names a file. Never raises."""
    global _installed  # vLLM may call this several times in a process
    path = os.environ.get(VARIABLE)
    if not path or _installed:
        return
    _installed = True
    try:
        from bo_tune.engines.vllm.observed.hooks import Observer  # noqa: PLC0415 - loaded where it is wanted alone

        vllm = sys.modules["vllm"]
        Observer(Path(path).absolute(), Path(vllm.__path__[0]), str(getattr(vllm, "__version__", "?"))).install()
    except Exception as error:  # noqa: BLE001 - an engine goes on, whatever is wrong here
        logging.getLogger("vllm.bo_tune").warning("bo_tune: cannot record lookups: %s", error)
