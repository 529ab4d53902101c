"""``docs/generate_cli.py``, which is no package, for tests."""

import importlib.util
import sys

from helpers import ROOT

_spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
assert _spec is not None
assert _spec.loader is not None
generate_cli = importlib.util.module_from_spec(_spec)
sys.modules["generate_cli"] = generate_cli
_spec.loader.exec_module(generate_cli)
