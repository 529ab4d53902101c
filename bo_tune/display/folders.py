"""The tuned folders that come with the package, in a table."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table

from bo_tune.analysis.folders import ReadyFolder
from bo_tune.display.console import percent, plain_table
from bo_tune.display.reuse import age


def folders_table(folders: Sequence[ReadyFolder], now: datetime | None = None) -> Table:
    """Return a table with a row for each model and GPU.

    Args:
        now: the moment from which ages count; by default the present.
    """
    now = now or datetime.now(UTC)
    text = ("folder", "GPU", "kernels", "toolchain", "tuned")
    table = plain_table("tuned folders", text, ("TP", "max_loras", "rank", "speed-up", "exp. loss"), ("toolchain",))
    for one in folders:
        table.add_row(
            one.name,
            one.gpu,
            ", ".join(one.kernel_sources),
            "; ".join(one.toolchains),
            f"{age((now - one.tuned_at).total_seconds())} ago",
            str(one.model.tensor_parallel),
            _listed(one.model.max_loras),
            _listed(one.model.ranks),
            "-" if one.speed_up is None else f"{one.speed_up:.2f}x",
            "-" if one.expected_loss is None else percent(100 * one.expected_loss),
        )
    return table


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
