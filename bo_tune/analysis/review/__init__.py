"""The studies of a database looked back on: what was found, how, at what cost, how far from the best of the grids.

Pure data, for ``bo-tune report`` to draw and to write as JSON.
"""

from bo_tune.analysis.review.review import Review, document, review

__all__ = ["Review", "document", "review"]
