"""Tuning for engines of one stream and of two at once: each way by itself, then one shrink for both."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bo_tune.cli.arguments import Arguments, on_streams
from bo_tune.cli.output import Output
from bo_tune.cli.start import begun
from bo_tune.cli.tuning import Done, exit_if_unfinished, print_next_steps, tune_one_way
from bo_tune.core.choices import RaceChoice
from bo_tune.core.problem import LoraProblem, lora
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.surroundings import SHRINK, Linear
from bo_tune.display.results import compromise_lines
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import write_tables
from bo_tune.engines.registry import address_of
from bo_tune.errors import DeviceError, InputError
from bo_tune.kernels.registry import OF_BASE_MODEL
from bo_tune.session.finished import table_entries
from bo_tune.session.session import Tuned
from bo_tune.session.workers.measuring import opened
from bo_tune.tuning.both_streams import Compromise, LayerTimes, compromise, finalists_of, layer_us

Asked = tuple[LoraProblem, str]
"""A problem, and the GPU's name."""

Layers = dict[Asked, LayerTimes]


def tune_both(arguments: Arguments, output: Output) -> None:
    """Tune for both, write the results, and report them.

    Raises:
        InputError: that cannot be done with these arguments.
        typer.Exit: not everything could be done.
    """
    _check(arguments)
    alone: dict[Asked, dict[ConfigKey, float]] = {}
    layers: dict[bool, Layers] = {}

    def noted(tuned: Sequence[Tuned]) -> None:
        for asked, study in _shrinks(tuned).items():
            alone[asked] = {**_alone_us(study), **alone.get(asked, {})}

    one = _tuned(_on_streams(arguments, two=False), output, then=noted)

    def timed_there(tuned: Sequence[Tuned]) -> None:
        noted(tuned)
        layers[True] = _layers(_shrinks(tuned), _shrinks(one.tuned), arguments)

    # What both ways look up alike, and no layer decides on, stays as it was found on one stream.
    known = {address_of(found.job.problem, found.job.device.gpu) for found in one.tuned}
    two = _tuned(_of_adapters(_on_streams(arguments, two=True)), output, but=known, then=timed_there)
    layers[False] = _layers_again(_on_streams(arguments, two=False), one, two)
    chosen = _chosen(one, layers, arguments.settings.finalists.confidence)
    files = write_tables(arguments.out, _entries(one, alone, chosen), output.notes)
    output.lines(*compromise_lines(list(chosen.values())))
    output.notes(*(f"wrote {file}" for file in files))
    print_next_steps(arguments, output, one, two)
    output.json({**one.document, "two_streams": dict(two.document), "shrink": _figures(chosen)})
    exit_if_unfinished([*one.tuned, *two.tuned])


def _tuned(arguments: Arguments, output: Output, **more: Any) -> Done:
    """Tune for one way, and report it. See ``tune_one_way``."""
    with begun(arguments) as start:
        return tune_one_way(arguments, output, start, **more)


def _check(arguments: Arguments) -> None:
    """Refuse arguments with which the two ways cannot be compared. Raises InputError."""
    if arguments.study is None or arguments.study.model is None or arguments.measured.recordings is not None:
        raise InputError("--streams both needs a model and a GPU, because it runs the model's layers both ways")
    if arguments.race is not RaceChoice.IN_PLACE:
        raise InputError(f"--streams both needs --race {RaceChoice.IN_PLACE}")
    if arguments.choose_m or arguments.ray is not None or (arguments.workers or 1) > 1:
        raise InputError(
            "--streams both does not work with several workers or with --m auto; tune one way, then the other"
        )
    on_streams(arguments.study, two=True)
    if not set(arguments.study.kernels) - set(OF_BASE_MODEL):
        raise InputError(
            "--streams both: the base model's kernels run the same on one stream and on two; leave --streams out"
        )


def _on_streams(arguments: Arguments, *, two: bool) -> Arguments:
    """Return the arguments for an engine of one stream or of two."""
    conditions = replace(arguments.measured.conditions, dual_stream=two)
    measured = replace(arguments.measured, conditions=conditions)
    return replace(arguments, study=on_streams(arguments.study, two=two), measured=measured)


def _of_adapters(arguments: Arguments) -> Arguments:
    """Return the arguments without the base model's kernels, which both ways run alike: they are tuned once."""
    assert arguments.study is not None
    kernels = tuple(kernel for kernel in arguments.study.kernels if kernel not in OF_BASE_MODEL)
    return replace(arguments, study=replace(arguments.study, kernels=kernels))


def _shrinks(tuned: Sequence[Tuned]) -> dict[Asked, Tuned]:
    """Return the studies of shrink that were decided in a layer."""
    return {
        (lora(one.job.problem), one.job.device.gpu.name): one
        for one in tuned
        if one.job.problem.kernel == SHRINK and one.result is not None and one.result.in_place is not None
    }


def _layers(here: Mapping[Asked, Tuned], there: Mapping[Asked, Tuned], arguments: Arguments) -> Layers:
    """Time the finalists of both ways in the layers of the one whose devices are open. A layer that cannot be timed is
    left out: what was found on one stream stays."""
    found: Layers = {}
    for asked, one in here.items():
        if asked in there and isinstance(one.job.layer, Linear):
            configs = finalists_of([tuned.result for tuned in (one, there[asked]) if tuned.result is not None])
            with suppress(DeviceError):
                active = arguments.settings.finalists.active
                found[asked] = layer_us(one.job.device, asked[0], one.job.layer, configs, active)
    return found


def _layers_again(arguments: Arguments, one: Done, two: Done) -> Layers:
    """Time the finalists of both ways on one stream, on GPUs that are opened anew."""
    with opened(arguments.measured) as devices:
        by_type = {device.gpu.name: device for device in devices}
        again = {
            (problem, gpu): replace(tuned, job=replace(tuned.job, device=by_type[gpu], twins=()))
            for (problem, gpu), tuned in _shrinks(one.tuned).items()
        }
        return _layers(again, _shrinks(two.tuned), arguments)


def _chosen(one: Done, layers: Mapping[bool, Layers], confidence: float) -> dict[Asked, Compromise]:
    """Return the configs that serve both ways, of the layers that were timed both ways."""
    both = {
        asked: compromise(layers[False][asked], layers[True][asked], tuned.default, confidence)
        for asked, tuned in _shrinks(one.tuned).items()
        if asked in layers[False] and asked in layers[True]
    }
    return {asked: best for asked, best in both.items() if best is not None}


def _entries(
    one: Done, alone: Mapping[Asked, Mapping[ConfigKey, float]], chosen: Mapping[Asked, Compromise]
) -> list[TunedEntry]:
    """Return the entries of shrink, each with what its layer takes both ways."""
    date, entries = datetime.now(UTC).isoformat(timespec="seconds"), []
    for asked, tuned in _shrinks(one.tuned).items():
        if asked in chosen:
            (entry,) = table_entries([tuned], one.session)
            config, there = chosen[asked].config, _figures_of(chosen[asked])
            if entry.provenance is not None:
                time_us = alone[asked][config_key(config)]
                told = replace(entry.provenance, config=config, time_us=time_us, date=date, in_place=there)
                entries.append(replace(entry, config=config, provenance=told))
    return entries


def _alone_us(tuned: Tuned) -> dict[ConfigKey, float]:
    """Return the times alone, in us, of the configs of a study: as they were raced, or else tried."""
    tried = {config_key(trial.params): trial.value for trial in tuned.trials if trial.value is not None}
    raced = {config_key(one): time_us for one, time_us in tuned.result.finalists} if tuned.result else {}
    return {**tried, **raced}


def _figures(chosen: Mapping[Asked, Compromise]) -> list[dict[str, Any]]:
    return [
        {"problem": str(problem), "gpu": gpu, "config": best.config, **_figures_of(best)}
        for (problem, gpu), best in chosen.items()
    ]


def _figures_of(best: Compromise) -> dict[str, Any]:
    ways = {"one": (best.one_us, best.least_one_us), "two": (best.two_us, best.least_two_us)}
    return {"streams": {way: {"layer_us": us, "least_us": least} for way, (us, least) in ways.items()}}
