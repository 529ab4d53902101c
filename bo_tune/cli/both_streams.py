"""Tuning for engines of one stream and of two at once: each way by itself, then one shrink for both."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bo_tune.cli.arguments import Arguments
from bo_tune.cli.output import Output
from bo_tune.cli.tuning import Done, leave_if_unfinished, tune_one_way
from bo_tune.core.choices import RaceChoice
from bo_tune.core.problem import LoraProblem, lora
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.surroundings import SHRINK
from bo_tune.display.results import compromise_lines
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import write_tables
from bo_tune.engines.registry import address_of
from bo_tune.errors import InputError
from bo_tune.session.finished import table_entries
from bo_tune.session.session import Tuned
from bo_tune.session.workers.measuring import opened
from bo_tune.tuning.both_streams import AddedTimes, Compromise, added_us, compromise, finalists_of

Place = tuple[LoraProblem, str]
"""A problem, and the GPU's name."""

Added = Mapping[Place, AddedTimes]

Times = Mapping[ConfigKey, float]


def tune_both(arguments: Arguments, output: Output) -> None:
    """Tune for both, write what came of it, and say so.

    Raises:
        InputError: that cannot be done with these arguments.
        typer.Exit: not everything could be done.
    """
    _check(arguments)
    active = arguments.settings.finalists.active
    alone: dict[Place, Times] = {}
    beside: dict[Place, AddedTimes] = {}

    def noted(tuned: Sequence[Tuned]) -> None:
        for place, study in _shrinks(tuned).items():
            alone[place] = {**_alone_us(study), **alone.get(place, {})}

    one = tune_one_way(_on_streams(arguments, two=False), output, then=noted)

    def timed_beside(tuned: Sequence[Tuned]) -> None:
        noted(tuned)
        beside.update(_added(_shrinks(tuned), _shrinks(one.tuned), active))

    # What both ways look up alike, and no layer decides on, stays as it was found on one stream.
    known = {address_of(found.job.problem, found.job.device.gpu) for found in one.tuned}
    two = tune_one_way(_on_streams(arguments, two=True), output, but=known, then=timed_beside)
    behind = _added_again(_on_streams(arguments, two=False), one, two)
    chosen = {
        place: best
        for place in behind
        if place in beside and (best := compromise(behind[place], beside[place])) is not None
    }
    files = write_tables(arguments.out, _entries(one, alone, chosen), output.notes)
    output.lines(*compromise_lines(list(chosen.values())))
    output.notes(*(f"wrote {file}" for file in files))
    output.json({"one": dict(one.document), "two": dict(two.document), "shrink": _figures(chosen)})
    leave_if_unfinished([*one.tuned, *two.tuned])


def _check(arguments: Arguments) -> None:
    """Refuse what leaves nothing to compare both ways in. Raises InputError."""
    if arguments.study is None or arguments.study.model is None or arguments.measured.recordings is not None:
        raise InputError("--streams both: needs a model and a GPU, to run its layers both ways")
    if arguments.race is not RaceChoice.IN_PLACE:
        raise InputError(f"--streams both: needs --race {RaceChoice.IN_PLACE}")
    if arguments.choose_m or arguments.ray is not None or (arguments.workers or 1) > 1:
        raise InputError("--streams both: not with workers, nor with --m auto; tune one way and then the other")


def _on_streams(arguments: Arguments, *, two: bool) -> Arguments:
    """Return the arguments for an engine of one stream or of two."""
    study = arguments.study
    if study is None or study.model is None:
        return arguments
    measured = arguments.measured
    return replace(
        arguments,
        study=replace(study, model=replace(study.model, dual_stream=two)),
        measured=replace(measured, conditions=replace(measured.conditions, dual_stream=two)),
    )


def _shrinks(tuned: Sequence[Tuned]) -> dict[Place, Tuned]:
    """Return the studies of shrink that were decided in a layer."""
    return {
        _place(one): one
        for one in tuned
        if one.job.problem.kernel == SHRINK and one.result is not None and one.result.in_place is not None
    }


def _place(tuned: Tuned) -> Place:
    return lora(tuned.job.problem), tuned.job.device.gpu.name


def _added(here: Mapping[Place, Tuned], there: Mapping[Place, Tuned], active: tuple[int, ...]) -> Added:
    """Time the finalists of both ways in the layers of the one whose devices are open."""
    found: dict[Place, AddedTimes] = {}
    for place, one in here.items():
        if place in there and one.job.linear is not None:
            results = [tuned.result for tuned in (one, there[place]) if tuned.result is not None]
            found[place] = added_us(one.job.device, place[0], one.job.linear, finalists_of(results), active)
    return found


def _added_again(arguments: Arguments, one: Done, two: Done) -> Added:
    """Time the finalists of both ways on one stream, on GPUs that are opened anew."""
    with opened(arguments.measured) as devices:
        by_type = {device.gpu.name: device for device in devices}
        again = {
            (problem, gpu): replace(tuned, job=replace(tuned.job, device=by_type[gpu], twins=()))
            for (problem, gpu), tuned in _shrinks(one.tuned).items()
        }
        return _added(again, _shrinks(two.tuned), arguments.settings.finalists.active)


def _entries(one: Done, alone: Mapping[Place, Times], chosen: Mapping[Place, Compromise]) -> list[TunedEntry]:
    """Return the entries of shrink, each with what it adds both ways."""
    date, entries = datetime.now(UTC).isoformat(timespec="seconds"), []
    for place, tuned in _shrinks(one.tuned).items():
        if place in chosen:
            (entry,) = table_entries([tuned], one.session)
            config, there = chosen[place].config, _figures_of(chosen[place])
            if entry.provenance is not None:
                time_us = alone[place][config_key(config)]
                told = replace(entry.provenance, config=config, time_us=time_us, date=date, in_place=there)
                entries.append(replace(entry, config=config, provenance=told))
    return entries


def _alone_us(tuned: Tuned) -> Times:
    """Return the times alone, in us, of the configs of a study: as they were raced, or else tried."""
    tried = {config_key(trial.params): trial.value for trial in tuned.trials if trial.value is not None}
    raced = {config_key(one): time_us for one, time_us in tuned.result.finalists} if tuned.result else {}
    return {**tried, **raced}


def _figures(chosen: Mapping[Place, Compromise]) -> list[dict[str, Any]]:
    return [
        {"problem": str(problem), "gpu": gpu, "config": best.config, **_figures_of(best)}
        for (problem, gpu), best in chosen.items()
    ]


def _figures_of(best: Compromise) -> dict[str, Any]:
    ways = {"one": (best.one_us, best.best_one_us), "two": (best.two_us, best.best_two_us)}
    return {"streams": {way: {"added_us": us, "least_us": least} for way, (us, least) in ways.items()}}
