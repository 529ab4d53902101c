"""Whether a host is fit to tune: what ``bo-tune doctor`` asks and makes of the answers."""

from bo_tune.analysis.doctor.examine import Wanted, examined
from bo_tune.analysis.doctor.finding import Finding, Status

__all__ = ["Finding", "Status", "Wanted", "examined"]
