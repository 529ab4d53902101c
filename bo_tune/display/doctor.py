"""The findings of ``bo-tune doctor``, as lines."""

from collections import Counter
from collections.abc import Iterator, Sequence

from bo_tune.analysis.doctor import Finding, Status


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line for each check, and another with what to do about it."""
    for finding in findings:
        yield f"{finding.status:<8} {finding.check}: {finding.said}"
        if finding.remedy is not None:
            yield f"{'':<8} -> {finding.remedy}"


def summary_line(findings: Sequence[Finding]) -> str:
    """Say whether the host is fit to tune."""
    counts = Counter(finding.status for finding in findings)
    if counts[Status.FAILED]:
        return f"not fit to tune: {counts[Status.FAILED]} of {len(findings)} checks failed"
    if counts[Status.WARNING]:
        return f"fit to tune, with {counts[Status.WARNING]} warning{'s' * (counts[Status.WARNING] > 1)}"
    return "fit to tune"
