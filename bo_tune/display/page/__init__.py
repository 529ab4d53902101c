"""``bo-tune report``: one self-contained HTML page about the searches of a database."""

from bo_tune.display.page.page import render

__all__ = ["render"]
