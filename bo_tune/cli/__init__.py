"""The ``bo-tune`` command: parses, calls, prints."""

from bo_tune.cli.app import main

__all__ = ["main"]
