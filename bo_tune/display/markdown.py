"""A review as Markdown, in the form in which people submit tuned configs upstream.

It says what measured, and lists each key of every file with its default and its tuned time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import geometric_mean

from bo_tune.analysis.review import Review
from bo_tune.analysis.review.study import StudyReview
from bo_tune.core.study_name import natural
from bo_tune.display.console import short_config
from bo_tune.engines.registry import address_of, is_looked_up

ESCAPED = str.maketrans({one: f"\\{one}" for one in "\\|*_`<>[]#"})
"""Characters in names from a database that would be taken for Markdown."""


def markdown(
    review: Review,
    *,
    title: str,
    made: Sequence[tuple[str, str]],
    least_gain_percent: float,
) -> str:
    """Return the text.

    Args:
        made: how it was made: (what, words).
        least_gain_percent: keys that gain less over the default are left out, and counted.
    """
    done = [study for study in review.studies if study.result is not None and study.speed_up is not None]
    kept = [study for study in done if 100.0 * (_gain(study) - 1.0) >= least_gain_percent]
    lines = [f"# {_plain(title)}", "", *_summary(review, done, kept, least_gain_percent), ""]
    lines += ["## Environment", "", "| | |", "|---|---|"]
    lines += [f"| {_plain(what)} | {_plain(said)} |" for what, said in [*_environment(review), *made]]
    for place, studies in _by_place(kept).items():
        lines += ["", f"## {_plain(place)}", "", *_table(studies)]
    return "\n".join([*lines, ""])


def _gain(study: StudyReview) -> float:
    assert study.speed_up is not None
    return study.speed_up


def _plain(text: str) -> str:
    return text.translate(ESCAPED)


def _summary(
    review: Review, done: Sequence[StudyReview], kept: Sequence[StudyReview], least_gain_percent: float
) -> Iterator[str]:
    unfinished = len(review.studies) - len(done)
    yield (
        f"{len(kept)} of {len(done)} tuned keys are listed: those that gain at least {least_gain_percent:g} % "
        "over the default "
        f"config{f'; {unfinished} keys have no result with a default time' if unfinished else ''}."
    )
    if kept:
        gains = [_gain(study) for study in kept]
        yield f"They are {geometric_mean(gains):.2f}x faster on average (geometric mean), {max(gains):.2f}x at most."
    if any(study.disturbed for study in kept):
        yield "Keys marked ! were measured while something disturbed the GPU."


def _environment(review: Review) -> list[tuple[str, str]]:
    """Return what measured: the GPU, and the versions of everything that has one."""
    found: dict[str, dict[str, None]] = {}
    for study in review.studies:
        name = study.name
        told = {"GPU": name.gpu, "kernels": name.kernel_source, **study.origin}
        if not study.origin:
            told["toolchain"] = name.toolchain
        told["conditions"] = name.conditions or "L2 cache cleared before each launch"
        for what, said in told.items():
            if what != "session" and said:
                found.setdefault(what, {})[said] = None
    return [(what, ", ".join(said)) for what, said in found.items()]


def _by_place(studies: Sequence[StudyReview]) -> Mapping[str, list[StudyReview]]:
    """Return studies by the file that their config goes into, or by their kernel if there is no file."""
    found: dict[str, list[StudyReview]] = {}
    for study in sorted(studies, key=lambda one: natural(str(one.name))):
        found.setdefault(_place(study), []).append(study)
    return dict(sorted(found.items()))


def _place(study: StudyReview) -> str:
    problem = study.name.problem
    if not is_looked_up(problem.kernel):
        return problem.kernel
    return address_of(problem, study.gpu).file_name


def _table(studies: Sequence[StudyReview]) -> Iterator[str]:
    """Yield a row for each key, and below the rows the entries as JSON."""
    yield "| problem | m | default us | tuned us | speed-up | race launches | config |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for study in studies:
        problem, result = study.name.problem, study.result
        assert result is not None
        raced = result.costs.launches_by_purpose.get("finalists", 0)
        layers = f" ({', '.join(study.layers)})" if study.layers else ""
        mark = " !" if study.disturbed else ""
        yield (
            f"| {_plain(problem.shape_label + layers + mark)} | {getattr(problem, 'm', '')} | {study.default_us:.2f} | "
            f"{study.best_us:.2f} | {study.speed_up:.2f}x | {raced} | `{short_config(result.config)}` |"
        )
    yield ""
    yield "<details><summary>Entries</summary>"
    yield ""
    yield "```json"
    yield json.dumps({_key(study): dict(study.config or {}) for study in studies}, indent=2)
    yield "```"
    yield ""
    yield "</details>"


def _key(study: StudyReview) -> str:
    problem = study.name.problem
    if not is_looked_up(problem.kernel):
        return problem.label
    return "/".join(address_of(problem, study.gpu).keys)
