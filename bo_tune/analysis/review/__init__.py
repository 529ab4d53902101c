"""Reviews the studies of a database: what was found, how, at what cost, and how far from the best of the grids.

Pure data, which ``bo-tune report`` draws and writes as JSON.
"""

from bo_tune.analysis.review.review import Review, document, review

__all__ = ["Review", "document", "review"]
