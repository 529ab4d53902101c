"""The output of ``bo-tune step``: what adapters add to a step, and how to start the engine."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from bo_tune.analysis.step import LayerTimes, StepReport
from bo_tune.display.console import plain_table, us
from bo_tune.engines.vllm.file_names import FOLDER_VARIABLE

STREAMS = {False: "one stream", True: "two streams"}

DUAL_STREAM = "VLLM_LORA_ENABLE_DUAL_STREAM=1"


def step_tables(report: StepReport) -> Iterator[Table]:
    """Return a table for each way of running adapters."""
    for two in report.ways:
        table = plain_table(
            f"The parts of a decoder layer that take adapters, {STREAMS[two]}, us; all {report.layers} layers, ms",
            (),
            ("m", "without adapters", "untuned", "tuned", "adapters take", "model: without", "untuned", "tuned",
             "adapters' share"),
        )  # fmt: skip
        for m, ways in report.times.items():
            table.add_row(str(m), *_cells(ways[two], report.layers))
        yield table


def _cells(one: LayerTimes, layers: int) -> list[str]:
    whole = [
        "-" if time_us is None else f"{layers * time_us / 1e3:.3f}"
        for time_us in (one.bare_us, one.untuned_us, one.tuned_us)
    ]
    added = "-" if one.tuned_us is None else _change(one.untuned_us - one.bare_us, one.tuned_us - one.bare_us)
    share = f"{100 * (1 - one.bare_us / one.ran_us):.1f} %"
    return [us(one.bare_us), us(one.untuned_us), us(one.tuned_us), added, *whole, share]


def _change(before_us: float, after_us: float) -> str:
    return f"{100 * (after_us / before_us - 1):+.1f} %" if before_us > 0 else "-"


def step_lines(report: StepReport) -> list[str]:
    """Return how to start the engine, and what readers of the tables must know."""
    lines = [f"{STREAMS[two]} without the folder: {reason}" for two, reason in report.lacking.items()]
    if report.folder is not None:
        lines.append(f"start the engine with {FOLDER_VARIABLE}={report.folder}")
    lines += _stream_lines(report)
    lines += _python_lines(report)
    return lines


def _stream_lines(report: StepReport) -> list[str]:
    if not all(len(ways) > 1 for ways in report.times.values()):
        return []
    faster = report.faster_on_two
    slower = [m for m in report.times if m not in faster]
    if not slower:
        return [f"{DUAL_STREAM} is faster at every measured m"]
    if not faster:
        return [f"{DUAL_STREAM} is slower at every measured m"]
    return [f"{DUAL_STREAM} is faster at m {_numbers(faster)}, slower at m {_numbers(slower)}"]


def _python_lines(report: StepReport) -> list[str]:
    bound = report.python_bound
    if not bound:
        return []
    free = [m for m in report.times if m > max(bound)]
    enough = f"; let steps hold {free[0]} tokens or more (--max-num-batched-tokens)" if free else ""
    return [
        f"up to m {max(bound)}, in a step that is not a CUDA graph (a prefill), the adapters' Python takes longer "
        f"than their GPU work{enough}"
    ]


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
