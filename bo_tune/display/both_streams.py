"""What is said of configs that serve engines of one stream and of two."""

from collections.abc import Sequence

from bo_tune.tuning.both_streams import Compromise


def compromise_lines(chosen: Sequence[Compromise]) -> list[str]:
    """Return what serving both ways costs each of them."""
    if not chosen:
        return []
    losses = {
        "one stream": [best.loss_one for best in chosen],
        "two streams": [best.loss_two for best in chosen],
    }
    return [f"shrink serves both ways, {len(chosen)} configs: {'; '.join(_loss(*item) for item in losses.items())}"]


def _loss(way: str, losses: Sequence[float]) -> str:
    mean, worst = sum(losses) / len(losses), max(losses)
    return f"on {way} adapters take {100 * mean:.1f} % more than with its own best, {100 * worst:.1f} % at worst"
