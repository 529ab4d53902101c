"""A review as JSON."""

from dataclasses import asdict
from typing import Any

from bo_tune.analysis.review.case import Case
from bo_tune.analysis.review.review import Review
from bo_tune.analysis.review.study import StudyReview


def document(review: Review) -> dict[str, Any]:
    """Return a review as JSON: means, costs, reasons, and each case with its studies; times in us."""
    return {
        "gpus": review.gpus,
        "replayed": review.replayed,
        "geomean_speed_up_over_default": review.speed_up,
        "mean_regret_percent": review.mean_regret_percent,
        "costs": asdict(review.effort),
        "grid_costs": asdict(review.grid_effort) if review.grid_effort else None,
        "pruned": dict(review.pruned),
        "excluded": dict(review.excluded),
        "left_out": review.left_out,
        "cases": [_case(case) for case in review.cases],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "finished": case.finished,
        "counts_in_means": case.counts,
        "default_us": case.default_us,
        "time_us": case.time_us,
        "speed_up": case.speed_up,
        "grid_best_us": case.best_us,
        "grid_from": case.truth,
        "regret_percent": case.regret_percent,
        "steps": [asdict(step) for step in case.steps],
        "studies": [_study(study, losses) for study, losses in zip(case.studies, case.losses, strict=True)],
    }


def _study(study: StudyReview, losses: Any) -> dict[str, Any]:
    return {
        "study": str(study.name),
        "config": study.config,
        "time_us": study.time_us,
        "default_us": study.default_us,
        "sampler": study.sampler,
        "certificate": study.certificate.to_json() if study.certificate else None,
        "ended_by": study.ended_by,
        "grid_size": study.grid_size,
        "excluded": study.excluded,
        "states": study.states,
        "reasons": study.reasons,
        "loss_by_a_wrong_value": dict(losses),
        "late_share": study.late_share,
        "costs": study.costs.flat(),
    }
