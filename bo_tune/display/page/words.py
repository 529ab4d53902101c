"""Short forms of numbers and configs, as the page shows them."""

from collections.abc import Mapping

from bo_tune.core.conclusion import Certificate

NONE = "–"
"""Shown if there is no number."""

SHORT_NAMES = {
    "block_m": "m",
    "block_n": "n",
    "block_k": "k",
    "group_size_m": "g",
    "BLOCK_SIZE_M": "m",
    "BLOCK_SIZE_N": "n",
    "BLOCK_SIZE_K": "k",
    "GROUP_SIZE_M": "g",
    "BLOCK_N": "n",
    "BLOCK_K": "k",
    "num_warps": "w",
    "num_stages": "s",
    "split_k": "sk",
}
"""Short names of parameters in a config. Parameters with other names keep them."""

ALWAYS_ONE = "num_ctas"


def config(values: Mapping[str, int] | None) -> str:
    """Show a config: ``m16 n32 k64 w4 s2 sk8``."""
    if values is None:
        return NONE
    known = [f"{short}{values[name]}" for name, short in SHORT_NAMES.items() if name in values]
    others = sorted(
        name for name in values if name not in SHORT_NAMES and not (name == ALWAYS_ONE and values[name] == 1)
    )
    return " ".join([*known, *(f"{name}={values[name]}" for name in others)])


def us(time_us: float | None) -> str:
    """Show a time in us."""
    return NONE if time_us is None else f"{time_us:,.2f}"


def times(factor: float | None) -> str:
    """Show a factor: ``1.43×``."""
    return NONE if factor is None else f"{factor:.2f}×"


def ratio(factor: float) -> str:
    """Show how many times as much something is: ``50×``."""
    return f"{factor:,.0f}×" if factor >= 10 else f"{factor:.1f}×"


def percent(value: float | None, digits: int = 1) -> str:
    """Show a percentage, given in percent."""
    return NONE if value is None else f"{value:.{digits}f} %"


def share(value: float | None, digits: int = 0) -> str:
    """Show a share of one as a percentage."""
    return percent(None if value is None else 100.0 * value, digits)


def count(number: float | None) -> str:
    """Show a count: ``12,345``."""
    return NONE if number is None else f"{number:,.0f}"


def problems(number: int) -> str:
    """Show a number of problems: ``84 problems``."""
    return f"{number:,} problem{'s' * (number != 1)}"


def seconds(value: float | None) -> str:
    """Show seconds: ``36 s``, ``8.0 min``, ``2.4 h``."""
    if value is None:
        return NONE
    if value < 100:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def loss(found: Certificate | None) -> str:
    """Show the expected loss of a study: ``0.16 %``."""
    if found is None:
        return NONE
    return share(0.0 if found.exhausted else found.expected_loss, 2)


def certificate(found: Certificate | None) -> str:
    """Show how sure a study's model was: ``90 %``."""
    return NONE if found is None else share(found.probability)
