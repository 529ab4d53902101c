"""Notes on lookups that hold for one engine and not for another."""

from collections.abc import Sequence

from bo_tune.engines.models.layers import LoraLayer

MOST_NAMED = 6
"""Most layers that a note names. Others are counted."""


def files_of(layers: Sequence[LoraLayer], *, dual_stream: bool) -> dict[str, frozenset[int]]:
    """Return the files that an engine looks up for its dense layers, with the numbers of slices that it asks for."""
    found: dict[str, set[int]] = {}
    for layer in layers:
        slices = len(layer.slice_sizes)
        if layer.shrink_k is not None:
            found.setdefault("SHRINK", set()).add(slices)
        for adds in layer.adds(dual_stream=dual_stream):
            found.setdefault(f"EXPAND_{str(adds).upper()}", set()).add(slices)
    return {name: frozenset(slices) for name, slices in found.items()}


def missing_slices(tuned: dict[str, frozenset[int]], asked: dict[str, frozenset[int]]) -> str:
    """Return in words the lookups of an engine that its files cannot serve; empty if each finds at least a neighbour.

    A missing file does no harm, because the engine then takes its defaults.
    """
    lacking = {name: sorted(asked[name] - tuned[name]) for name in tuned if name in asked}
    return ", ".join(
        f"…_{name}.json for num_slices {' and '.join(map(str, slices))}" for name, slices in lacking.items() if slices
    )


def restricted_note(
    names: Sequence[str], tuned: Sequence[LoraLayer], asked: Sequence[LoraLayer], lacking: str, *, experts: bool
) -> str:
    """Return the note on files for a part of a model's modules.

    Args:
        names: values of ``--lora-target-modules``.
        tuned: the layers that the files are for.
        asked: the layers of an engine without that option.
        lacking: the lookups that fail in that engine, from ``missing_slices``.
        experts: whether that engine adapts experts, for which there are no files.
    """
    others = list(dict.fromkeys(layer.name for layer in asked if layer not in tuned))
    shown = ", ".join(others[:MOST_NAMED]) + (f" and {len(others) - MOST_NAMED} more" if others[MOST_NAMED:] else "")
    start = f"start the engine with --lora-target-modules {' '.join(names)}"
    if lacking:
        return f"{start}, {_STOPS}: without this option it also adapts {shown}, and looks up {lacking}"
    harm = [f"takes other layers' configs for {shown} if theirs are missing"] if others else []
    harm += ["runs the experts with its defaults"] if experts else []
    return f"{start}: without this option it {' and '.join(harm)}" if harm else start


def dual_stream_note(lacking: str) -> str:
    """Return the note on files for two streams. ``lacking`` are the lookups that fail in an engine of one stream."""
    start = "start the engine with VLLM_LORA_ENABLE_DUAL_STREAM=1"
    if lacking:
        return f"{start}, {_STOPS}: on one stream it looks up {lacking}"
    return f"{start}: on one stream it looks up …_EXPAND_TRUE.json for all layers"


_STOPS = "or it stops with a KeyError unless the files have entries for more than these lookups"
