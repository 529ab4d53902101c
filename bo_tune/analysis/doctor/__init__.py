"""Whether a host is fit to tune: the questions of ``bo-tune doctor`` and the verdicts on the answers."""

from bo_tune.analysis.doctor.examine import Wanted, examined
from bo_tune.analysis.doctor.finding import Finding, Status

__all__ = ["Finding", "Status", "Wanted", "examined"]
