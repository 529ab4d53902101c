"""The last step of a study: the best few and the default config, re-measured in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bo_tune.measure.device import Device
from bo_tune.outcome import estimate_us
from bo_tune.problem import Problem
from bo_tune.space import Config, ConfigKey, config_key


@dataclass(frozen=True, slots=True)
class Finalists:
    """How many of the best configs are re-measured besides the default, and how often each."""

    count: int = 8
    rounds: int = 20


@dataclass(frozen=True, slots=True)
class Choice:
    """The config a study ends with.

    Attributes:
        time_us: its re-measured time, in us.
        default_time_us: the default config's, re-measured with it; None if the default cannot run.
        times_us: re-measured time of every finalist, in us.
        launches: launches spent on re-measuring.
    """

    config: dict[str, int]
    time_us: float
    default_time_us: float | None
    times_us: Mapping[ConfigKey, float]
    launches: int


def choose(
    device: Device, problem: Problem, measured: Mapping[ConfigKey, float], default: Config, finalists: Finalists
) -> Choice | None:
    """Re-measure the best configs and the default one; the fastest wins, the default wins ties.

    Args:
        measured: time of every complete trial, in us.

    Returns:
        None where nothing was measured.
    """
    default_key = config_key(default)
    best: Sequence[ConfigKey] = sorted((key for key in measured if key != default_key), key=measured.__getitem__)
    chosen = [default_key] if default_key in measured else []
    chosen += best[: finalists.count]
    if not chosen:
        return None
    repetitions = device.remeasure(problem, [dict(key) for key in chosen], finalists.rounds)
    times = {key: estimate_us(runtimes) for key, runtimes in zip(chosen, repetitions, strict=True)}
    winner = min(chosen, key=times.__getitem__)  # the first of equals: the default, then the best so far
    return Choice(
        config={name: dict(winner)[name] for name in default},
        time_us=times[winner],
        default_time_us=times.get(default_key),
        times_us=times,
        launches=sum(map(len, repetitions)),
    )
