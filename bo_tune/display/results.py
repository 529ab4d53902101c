"""The results of a session, and how its time was spent, as tables and lines."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from statistics import geometric_mean

from rich.table import Table

from bo_tune.analysis.observed_time import ObservedTime
from bo_tune.core.activity import SessionActivity
from bo_tune.core.conclusion import SHARED, Agreement, Decision
from bo_tune.core.study_name import natural
from bo_tune.display.console import (
    ENDED,
    TIMES,
    counted,
    disturbed_lines,
    ending_lines,
    expected_loss,
    marked,
    plain_table,
    short_config,
    speed_up,
    us,
)
from bo_tune.session.session import Tuned, session_wall_s
from bo_tune.store.results import StudyResult
from bo_tune.tuning.both_streams import Compromise


def results_tables(tuned: Iterable[Tuned]) -> Iterator[Table]:
    """Return what a session chose: a table for each kernel, GPU and kernel source, a row for each problem."""

    def group(study: Tuned) -> tuple[str, str, str]:
        return study.job.problem.kernel, study.name.gpu, study.name.kernel_source

    def place(study: Tuned) -> tuple[object, ...]:
        return group(study), natural(study.job.problem.shape_label)

    for title, members in groupby(sorted(tuned, key=place), group):
        studies = list(members)
        layers = any(study.job.serves for study in studies)  # a column only if there is something to show
        text = ("problem", *(["layers"] if layers else []), "config")
        table = plain_table(
            " on ".join(title[:2]) + f" ({title[2]})", text, (*TIMES, *ENDED), spare=("ended", "exp. loss")
        )
        for study in studies:
            shape = study.job.problem.shape_label + marked(study.disturbed)
            names = [", ".join(study.job.serves) or "-"] if layers else []
            table.add_row(shape, *names, *_result_cells(study))
        yield table


def _result_cells(study: Tuned) -> list[str]:
    result = study.result
    if result is None:
        nothing = "nothing could be measured" if study.done else "failed: its message says why"
        return [nothing, *["-"] * len((*TIMES, *ENDED))]
    times = result.default_time_us, result.time_us
    cells = [short_config(result.config), *map(us, times), speed_up(*times)]
    return [*cells, expected_loss(result.certificate), str(result.ending or "-")]


def session_lines(tuned: Sequence[Tuned]) -> list[str]:
    """Return the lines below the tables: what the studies cost, and what they gained."""
    results = [study.result for study in tuned if study.result is not None]
    costs = [result.costs for result in results]
    lines = [
        f"{counted(len(results), 'study', 'studies')}: {sum(c.launched_configs for c in costs):,} configs "
        f"launched, {sum(c.launches for c in costs):,} launches, {sum(c.compiles for c in costs):,} compiles, "
        f"trials under way for {session_wall_s(tuned):.1f} s"
    ]
    run = [result for result in results if result.joint is None or result.joint.decided_by is None]
    gains = [result.default_time_us / result.time_us for result in run if result.default_time_us]
    if gains:
        lines.append(
            f"tuned configs are {geometric_mean(gains):.2f}x faster than the defaults (geometric mean of {len(gains)})"
        )
    lines += ending_lines([(result.ending, result.certificate) for result in results])
    return [*lines, *mix_lines(results), *joint_lines(tuned), *disturbed_lines(study.disturbed for study in tuned)]


def observed_lines(time: ObservedTime | None) -> list[str]:
    """Return a line about the steps of an observed engine, or none if none was observed."""
    if time is None:
        return []
    untouched = 1 - time.at_keys - time.near_keys
    rest = f", {untouched:.0%} not tuned" if untouched >= 0.005 else ""
    return [
        f"in the {time.steps:,} observed steps, adapters' kernels take {time.default_us:,.0f} us per step with "
        f"the defaults and {time.tuned_us:,.0f} us tuned ({time.speed_up:.2f}x); of that time, {time.at_keys:.0%} "
        f"has its own key m, {time.near_keys:.0%} takes the nearest key{rest}"
    ]


def mix_lines(results: Sequence[StudyResult]) -> list[str]:
    """Return a line about a mix of numbers of adapters, with the gain at each; none if no mix decided."""
    shares: dict[int, list[float]] = {}
    for times in (one for result in results if result.in_place for one in result.in_place.by_active):
        if times.default_time_us is not None and times.default_time_us > times.bare_us:
            added = (times.time_us - times.bare_us) / (times.default_time_us - times.bare_us)
            shares.setdefault(times.adapters, []).append(100 * (added - 1))
    if not shares:
        return []
    each = (f"{n} active: {sum(one) / len(one):+.1f} %, worst {max(one):+.1f} %" for n, one in sorted(shares.items()))
    return [
        "change of the adapters' time in their layers against the default, by the number of active adapters in a "
        f"step: {'; '.join(each)}"
    ]


def compromise_lines(chosen: Sequence[Compromise]) -> list[str]:
    """Return what serving both kinds of engine costs each of them."""
    if not chosen:
        return []
    losses = {
        "one stream": [best.loss_one_us for best in chosen],
        "two streams": [best.loss_two_us for best in chosen],
    }
    return [f"{len(chosen)} shrink configs serve both ways: {'; '.join(_loss(*item) for item in losses.items())}"]


def _loss(way: str, losses: Sequence[float]) -> str:
    mean, worst = sum(losses) / len(losses), max(losses)
    return (
        f"on {way}, a layer takes {mean:.2f} us longer than with its own best config on average, {worst:.2f} us at "
        "worst"
    )


def joint_lines(tuned: Sequence[Tuned]) -> list[str]:
    """Return lines about the sums of kernels that had to agree, and about who decided; none if there are none."""
    sums: dict[tuple[object, ...], Agreement] = {}
    for study in tuned:
        problem, gpu = study.job.problem, study.job.device.gpu.name
        group = study.job.spec.joint_group(problem)
        if group is not None and study.result is not None and study.result.joint is not None:
            sums[gpu, study.name.kernel_source, group] = study.result.joint
    decided = [joint.decided_by for joint in sums.values() if joint.decided_by is not None]
    deciding = {decision.kernels for decision in decided}
    free = [joint for joint in sums.values() if joint.decided_by is None and joint.kernels not in deciding]
    return [*_decided_lines(decided), *_agreed_lines(free)]


def _agreed_lines(joint: Sequence[Agreement]) -> list[str]:
    gains = [one.default_time_us / one.time_us for one in joint if one.default_time_us]
    if not gains:
        return []
    return [
        f"kernels that agree on {SHARED}: their sum is {geometric_mean(gains):.2f}x faster than the defaults' sum "
        f"(geometric mean of {len(gains)}); a single one may be slower than its own default"
    ]


def _decided_lines(decided: Sequence[Decision]) -> list[str]:
    """Report the times of kernels that an engine launches in place of others."""
    if not decided:
        return []
    kernels = " and ".join(decided[0].kernels)
    line = f"{len(decided)} problems take their {SHARED} from {kernels}, which the engine launches"
    known = [(one.default_time_us, one.time_us) for one in decided if one.default_time_us]
    gains = [default_us / time_us for default_us, time_us in known]
    if gains:
        sums = [sum(times) for times in zip(*known, strict=True)]
        line += (
            f": {us(sums[0])} us by default, {us(sums[1])} us tuned in total, {geometric_mean(gains):.2f}x faster "
            f"(geometric mean of {len(gains)})"
        )
    return [f"{line}; the rest of the other kernels' configs is used only by the two-kernel path"]


def activity_lines(activity: SessionActivity) -> list[str]:
    """Return lines about where a session's time went. A replay has none, since no devices work."""
    lines = []
    for name, device in activity.devices.items():
        if device.gpu is not None:
            seconds = ", ".join(f"{what} {s:.1f} s" for what, s in sorted(device.gpu.seconds.items()))
            lines.append(f"{name}: {seconds}; {device.gpu.restarts} restarts of the GPU process")
        if device.farm is not None:
            farm = device.farm
            lines.append(
                f"compilers: {farm.busy_s:.0f} s of {farm.workers} processes, {farm.compiles:,} compiles, "
                f"{farm.cached:,} found in the cache, {farm.shared:,} shared, {farm.timeouts} timeouts, "
                f"{farm.crashes} crashes"
            )
            if farm.packed:
                lines.append(
                    f"packs: {farm.packed:,} compiles avoided, which took {farm.packed_s:.0f} s where the packs "
                    f"were made, so about {farm.packed_s / farm.workers:.0f} s saved for the compile processes "
                    "here"
                )
    if lines:
        lines.insert(
            0,
            f"session: {activity.wall_s:.1f} s, GPU busy {activity.gpu_share or 0:.0%}, compilers busy "
            f"{activity.compiler_share or 0:.0%}, tuner {activity.tuner_ms_per_trial or 0:.1f} ms per trial, "
            f"database {activity.store_s:.1f} s in the background",
        )
    return lines
