"""An engine's lookups as a study: the problems to tune, with keys m where its steps spend their time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.surroundings import Layer, Linear, Weights
from bo_tune.engines.models.architectures.moe import EXPERTS
from bo_tune.engines.models.layers_around import mixtures
from bo_tune.engines.models.mamba import MAMBA as LAYERS
from bo_tune.engines.models.problems import EXPAND, SHRINK
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.engines.vllm.observed import names
from bo_tune.engines.vllm.observed.load import estimate_us, place
from bo_tune.engines.vllm.observed.mamba import observed_steps
from bo_tune.engines.vllm.observed.problems import Family, families
from bo_tune.engines.vllm.observed.reading import LayerLine, Observed, read_observed
from bo_tune.errors import InputError
from bo_tune.kernels.mamba.step import KERNEL as MAMBA

OTHERS = {names.EXPERTS: "the base model's experts", names.MAMBA: "Mamba"}
"""Names of other kinds of lookups."""

WITHOUT_ADAPTERS = "of these only Mamba's are tuned from lookups, with --only mamba"

RARE = 4
"""A study gets another budget if its share of the time is at least this many times smaller or larger than the mean."""


@dataclass(frozen=True)
class ObservedStudy:
    """An engine's lookups of adapters, and the keys m under which they are tuned.

    Attributes:
        families: the lookups, grouped into families that differ only in m.
        wanted_ms: the keys m that the user wants; if empty, they follow from the steps.
    """

    observed: Observed
    families: Sequence[Family]
    wanted_ms: tuple[int, ...] = ()

    @classmethod
    def of(cls, path: Path, ms: Sequence[int] = ()) -> "ObservedStudy":
        """Read an engine's lookups.

        Args:
            path: a file of the plugin, or the name that an engine's processes were given.
            ms: keys m; if empty, they follow from the steps.

        Raises:
            InputError: it cannot be read, or holds no lookup of adapters.
        """
        observed = read_observed(path)
        found = families(observed)
        if not found:
            raise InputError(f"{path}: the engine looked up no configs of adapters; start it with --enable-lora")
        return cls(observed, found, tuple(ms))

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return self.observed.source.stem

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that serve the engine."""
        return tuple(dict.fromkeys(family.problem.kernel for family in self.families))

    @property
    def max_loras(self) -> tuple[int, ...]:
        """The engine's ``--max-loras``."""
        return tuple(sorted({family.problem.max_loras for family in self.families}))

    @property
    def dual_stream(self) -> bool:
        """Whether the engine has two streams."""
        return self.observed.dual_stream

    @property
    def note(self) -> str | None:
        """Facts that the observation leaves open; None for none."""
        notes = []
        if not self.executed:
            notes.append("no step with adapters was observed, so every m that was looked up has a key of its own")
        if self.observed.left_out:
            notes.append(
                f"{self.observed.left_out} lookups and steps are missing here, because they came after the files were "
                "full"
            )
        if self.observed.batch_invariant:
            notes.append("the engine ran with VLLM_BATCH_INVARIANT, and with it reads no tuned files of adapters")
        others = [text for kind, text in OTHERS.items() if self.observed.of_kind(kind)]
        if others:
            notes.append(f"the engine also looked up configs of {' and '.join(others)}: {WITHOUT_ADAPTERS}")
        return "; ".join(notes) or None

    @cached_property
    def executed(self) -> Mapping[LoraProblem, Mapping[int, float]]:
        """Estimated time in us of each family's lookups in steps with adapters, by m. Empty without steps."""
        times: dict[LoraProblem, dict[int, float]] = {}
        for step, count in self.observed.steps.items():
            if not step.adapters:
                continue
            for family in self.families:
                m = step.sequences if self.is_per_sequence(family) else step.padded
                one = estimate_us(replace(family.problem, m=m), min(step.adapters, family.problem.max_loras))
                there = times.setdefault(family.problem, {})
                there[m] = there.get(m, 0.0) + one * count * self.calls(family)
        return times

    def is_per_sequence(self, family: Family) -> bool:
        """Say whether a family's m is a step's number of sequences, as for the vocabulary's layers.

        It is if the family was never looked up with as many tokens as the largest step has.
        """
        return max(family.counts) < max(max(other.counts) for other in self.families)

    def calls(self, family: Family) -> int:
        """Return the number of layers that make a family's lookups in a step; 1 if unknown."""
        return sum(layer.count for layer in self._asking(family)) or 1

    @cached_property
    def ms(self) -> tuple[int, ...]:
        """The keys m, ascending: those wanted, or those that follow from the steps, or else all that were looked up."""
        if self.wanted_ms:
            return self.wanted_ms
        times: dict[int, float] = {}
        for family in self.families:
            for m, time in () if self.is_per_sequence(family) else self.executed.get(family.problem, {}).items():
                times[m] = times.get(m, 0.0) + time
        if times:
            return tuple(place(times))
        return tuple(sorted({m for family in self.families for m in family.counts}))

    def problems_by_layer(self, kernels: Sequence[str] | None = None) -> dict[Problem, tuple[str, ...]]:
        """Return the problems to tune, each with the names of the layers that ask, if known.

        Args:
            kernels: only problems of these kernels; None for all of adapters.
        """
        found: dict[Problem, tuple[str, ...]] = {
            replace(family.problem, m=m): self.names(family)
            for family in self.families if kernels is None or family.problem.kernel in kernels
            for m in self._keys(family)
        }  # fmt: skip
        steps = observed_steps(self.observed, self.ms) if kernels is not None and MAMBA in kernels else []
        return found | {step.problem: (LAYERS,) for step in steps}

    def lookups_by_layer(self) -> dict[LoraProblem, tuple[str, ...]]:
        """Return every lookup that the engine made, and those of the steps whose graphs it replayed."""
        return {
            replace(family.problem, m=m): self.names(family)
            for family in self.families
            for m in sorted({*family.counts, *self.executed.get(family.problem, ())})
        }

    def _keys(self, family: Family) -> list[int]:
        """Return the keys m of a family, up to the one nearest to its largest m.

        Without an entry there, another layer's config would be taken.
        """
        ms = sorted(self.ms)
        last = nearest_of(ms, max((*family.counts, *self.executed.get(family.problem, ()))))
        return [m for m in ms if m <= last]

    def budgets(self, usual: int) -> dict[Problem, int]:
        """Return the budgets, in launched configs, of studies that do not get the usual one.

        A study gets half of it if its problem takes less than a quarter of the mean time, and twice of it if more than
        four times the mean.
        """
        times: dict[Problem, float] = {}
        for family in self.families:
            keys = self._keys(family)
            for m, time in self.executed.get(family.problem, {}).items():
                key = replace(family.problem, m=nearest_of(keys, m))
                times[key] = times.get(key, 0.0) + time
        mean = sum(times.values()) / len(times) if times else 0.0
        few = {problem: max(1, usual // 2) for problem, time in times.items() if RARE * time < mean}
        return few | {problem: 2 * usual for problem, time in times.items() if time > RARE * mean}

    def names(self, family: Family) -> tuple[str, ...]:
        """Return the names of the layers that make a family's lookups."""
        if family.problem.experts is not None:
            return (EXPERTS,)
        return tuple(dict.fromkeys(layer.label for layer in self._asking(family)))

    def _asking(self, family: Family) -> list[LayerLine]:
        problem = family.problem
        if problem.experts is not None:
            return [layer for layer in self.observed.layers if not any(_adapters(layer))]
        return [layer for layer in self.observed.layers if _asks(layer, problem)]

    def layers(self) -> dict[Problem, Layer]:
        """Return the layer of each problem that has one.

        These layers run with every token, and their kernels follow each other without communication between ranks.
        """
        experts = [] if self.dual_stream else mixtures(family.problem for family in self.families)
        adds = {_output(family.problem): family.problem.add_inputs for family in self.families}
        found: dict[Problem, Layer] = {}
        for family in self.families:
            if self.is_per_sequence(family):
                continue
            linears = [linear for layer in self._asking(family) if (linear := _linear(layer, adds)) is not None]
            places: Iterator[Layer] = chain(linears, experts)
            layer = next((place for place in places if place.holds(family.problem)), None)
            found |= dict.fromkeys(family.at(self._keys(family)), layer) if layer is not None else {}
        return found


def _asks(layer: LayerLine, problem: LoraProblem) -> bool:
    """Say whether a layer makes such lookups, by the shapes of its adapters: slots, 1, width, length."""
    a, b = _adapters(layer)
    if problem.kernel == SHRINK:
        return bool(a) and (len(a), a[0][-1], a[0][-2]) == (problem.num_slices, problem.k, problem.n)
    widths = tuple(shape[-2] for shape in b)
    return bool(b) and (len(b), b[0][-1], max(widths)) == (problem.num_slices, problem.k, problem.n)


def _adapters(layer: LayerLine) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]:
    """Return the shapes of A and B. A of an embedding is a table of rows and is left out: it has no shrink."""
    shapes = layer.layer.shapes
    a, b = shapes.get("lora_a_stacked", []), shapes.get("lora_b_stacked", [])
    return [shape for shape in a if len(shape) > 3], [shape for shape in b if len(shape) > 3]


def _output(problem: LoraProblem) -> tuple[object, ...]:
    return problem.kernel, problem.num_slices, problem.n


def _linear(layer: LayerLine, adds: Mapping[tuple[object, ...], bool | None]) -> Linear | None:
    """Return the linear layer that a layer's adapters have the shapes of; None if there is none."""
    a, b = _adapters(layer)
    if not a or not b:
        return None
    widths = tuple(shape[-2] for shape in b)
    overwrites = adds.get((EXPAND, len(widths), max(widths))) is False
    try:
        return Linear(a[0][-1], widths, not overwrites, _weights(layer.layer.weights))
    except ValueError:  # an adapter of width 0, which a file may hold
        return None


def _weights(dtype: str | None) -> Weights:
    """Return the storage of weights, given the type of their tensor. Weights of 4 bits are packed into integers."""
    if dtype is None or dtype.startswith(("bfloat", "float16", "float32")):
        return Weights.BITS_16
    return Weights.FP8 if dtype.startswith("float8") else Weights.INT4
