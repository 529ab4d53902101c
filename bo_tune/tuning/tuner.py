"""One study: propose → compile → measure → record, until the budget is spent; then choose among the finalists."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from statistics import median
from typing import TypeVar

from optuna.trial import FrozenTrial

from bo_tune.core.conclusion import Certificate, StopRule
from bo_tune.core.events import Listener, TrialRecorded, ignore
from bo_tune.core.outcome import Invalid, Launches, Outcome
from bo_tune.core.problem import Problem, lora
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Layer, Linear
from bo_tune.errors import DeviceError
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import Build, Device
from bo_tune.store.frozen import ranges_of, to_trial
from bo_tune.store.storage import StoredStudy
from bo_tune.store.trials import launched
from bo_tune.tuning.candidates import Candidates
from bo_tune.tuning.in_place import after_layer, decided_in_place, race_in_place, surroundings_in
from bo_tune.tuning.proposer import Proposal, Proposer
from bo_tune.tuning.race import Choice, InPlaceTimes, choose
from bo_tune.tuning.settings import TunerSettings

UnderWay = TypeVar("UnderWay")

OVERDUE = 3.0
"""If a binary takes this many times the usual wait, a search that could end no longer waits for it before it starts
another config. In a session of 84 lookups on an H200, searches used to start others at once. Of 506 s of compilers, 82
then went into compiles that were abandoned."""

LEAST_OVERDUE_S = 0.5

WAITS_REMEMBERED = 16

NEARLY = 3.0
"""If the risk is below this many times the stop rule's, a search has one config under way at a time."""

MOST_INVALID_PER_LAUNCHED = 4
"""A study also ends when this many times its budget of launched configs proved invalid."""


class InterruptedSearch(Exception):  # noqa: N818 - not an error: the user asked for it
    """The search was asked to stop. Everything recorded so far stays."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A config on its way through the compiler.

    Attributes:
        proposal: None for a default config that is no candidate, and so could not be proposed.
    """

    config: dict[str, int]
    proposal: Proposal | None
    build: Future[Build]
    start: datetime
    begun_s: float = field(default_factory=time.perf_counter)

    @property
    def waited_s(self) -> float:
        """Seconds since it was asked for."""
        return time.perf_counter() - self.begun_s


def take_ready(
    under_way: deque[UnderWay], build: Callable[[UnderWay], Future[Build]], within_s: float | None = None
) -> UnderWay | None:
    """Wait for a config to be compiled, and remove and return the oldest that is. So a long compile delays only itself.

    Args:
        within_s: how long to wait, in seconds; for ever by default.

    Returns:
        None if none is compiled by then.
    """
    builds = [build(one) for one in under_way]
    if not any(future.done() for future in builds):
        wait(builds, timeout=within_s, return_when=FIRST_COMPLETED)
    place = next((place for place, future in enumerate(builds) if future.done()), None)
    if place is None:
        return None
    taken = under_way[place]
    del under_way[place]
    return taken


class Tuner:
    """Searches the best config of one problem.

    The proposer learns of every trial in memory, so proposing takes no database time. Finished trials are stored in
    the background, within a second of being measured.

    Args:
        ahead: the default config's build, if it has begun.
        apart: parameter whose values are searched side by side. A config is then given up when it is clearly slower
            than the best of its own value, not than the best of all.
        layer: the layer of a model in which finalists race; None to race alone.
        lookahead: called before each proposal, returns how many configs may be compiling or waiting at once. More than
            one only pays if compilers would idle, since proposals made together know less.
        stop: set by whoever wants the search to end after the trial under way.

    Attributes:
        launched_configs: configs launched at least once.
        best_us: time of the best complete trial so far, in us.
        sure: probability of the last computed certificate; None before the first.
        resumed: trials that were recorded before.
        launches: launches since then, by purpose.
        propose_s: seconds spent on proposals.
        tuner_s: seconds spent on deciding and recording: everything except waiting for compilers and the device.
    """

    def __init__(
        self,
        problem: Problem,
        spec: AnySpec,
        device: Device,
        stored: StoredStudy,
        candidates: Candidates,
        default: dict[str, int],
        proposer: Proposer,
        settings: TunerSettings,
        *,
        ahead: Future[Build] | None = None,
        apart: str | None = None,
        layer: Layer | None = None,
        lookahead: Callable[[], int] = lambda: 1,
        listener: Listener = ignore,
        stop: threading.Event | None = None,
    ) -> None:
        self.problem, self.spec = problem, spec
        self.candidates = candidates
        self.trials: list[FrozenTrial] = []
        self.measured: dict[ConfigKey, float] = {}
        self._tried: set[ConfigKey] = set()
        self._untried = set(candidates.keys)
        self.device = device
        self.stored = stored
        self.default = default
        self._settings = settings
        self._ranges = ranges_of(candidates.space.ranges, default)
        self._rivals = [candidates.representative_of(config) for config in spec.rivals(problem)]
        self._ahead, self._apart, self.layer = ahead, apart, layer
        self._lookahead = lookahead
        self._listener = listener
        self._stop = stop or threading.Event()
        self._pending: deque[Pending] = deque()
        self._waited_s: deque[float] = deque(maxlen=WAITS_REMEMBERED)
        self.proposer = proposer
        self._certified: tuple[int, Certificate | None] | None = None
        self.launched_configs = 0
        self.best_us: float | None = None
        self.sure: float | None = None
        self.launches: Launches = Counter()
        self.propose_s = 0.0
        self.tuner_s = 0.0
        for trial in stored.trials():
            proposer.learn(trial)
            self._remember(trial)
        self.resumed = len(self.trials)

    def search(self, budget: int | None = None) -> None:
        """Try configs until ``budget`` (by default the settings') are launched or none is left.

        Raises:
            InterruptedSearch: when asked to stop.
        """
        budget = self._settings.budget if budget is None else budget
        try:
            self._search(budget)
        finally:
            self.stored.flush()

    def _search(self, budget: int | None) -> None:
        while True:
            if self._stop.is_set():
                raise InterruptedSearch
            with self.timed():
                while self._wants_more(budget):
                    self._pending.append(self.start())
                if self.is_sure():
                    self._leave_to_compilers()
            if not self._pending:
                return
            ready = take_ready(self._pending, lambda pending: pending.build, self._overdue_s)
            if ready is not None:
                self.finish(ready)

    @property
    def _overdue_s(self) -> float:
        """Seconds after which a search that may end without a compile no longer waits for it."""
        usual = median(self._waited_s) if self._waited_s else 0.0
        return max(LEAST_OVERDUE_S, OVERDUE * usual)

    def _leave_to_compilers(self) -> None:
        """Forget configs that still compile: enough is known without them, and compiling may take seconds."""
        untuned = {config_key(config) for config in (self.default, *self._rivals)}
        for pending in list(self._pending):
            if pending.proposal and not pending.build.done() and config_key(pending.config) not in untuned:
                self._pending.remove(pending)
                self.proposer.forget(pending.proposal)
                self.device.withdraw(self.problem, pending.config)

    def finish(self, pending: Pending) -> None:
        """Wait for a config that was started, measure it and record it."""
        outcome = self._evaluate(pending)
        with self.timed():
            self._record(pending, outcome)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of this context as deciding and recording."""
        start = time.perf_counter()
        with self.device.occupancy.at("deciding"):
            yield
        self.tuner_s += time.perf_counter() - start

    def choose(self) -> Choice | None:
        """Re-measure the finalists and the default config. Returns None if nothing was measured."""
        found, launches = self._race_in_place()
        measured, finalists = self.measured, after_layer(self._settings.finalists, decided=found is not None)
        also = [found.winner] if found is not None else []
        rivals = [config_key(config) for config in self._rivals]
        choice = choose(self.device, self.problem, measured, self.default, finalists, also, rivals)
        if choice is None:
            return None
        choice = replace(choice, launches=choice.launches + launches)
        self.launches += choice.launches
        return choice if found is None else decided_in_place(choice, found, self.default)

    def _race_in_place(self) -> tuple[InPlaceTimes | None, Launches]:
        """Race in the layer if there is one that runs. Otherwise the times alone decide."""
        if not isinstance(self.layer, Linear) or not self.measured:
            return None, Counter()
        problem, finalists = lora(self.problem), self._settings.finalists
        try:
            around = surroundings_in(self.layer, problem, self.device, finalists.active)
            return race_in_place(self.device, problem, around, self.measured, self.default, finalists)
        except DeviceError:
            return None, Counter()

    @property
    def certificate(self) -> Certificate | None:
        """The certificate of the sampler's model that nothing better is left; None for a sampler without a model."""
        if self._certified is None or self._certified[0] != len(self.trials):
            self._certified = len(self.trials), self.proposer.certificate(self._settings.tolerance)
            self.sure = self._certified[1].probability if self._certified[1] else None
        return self._certified[1]

    @property
    def certificates(self) -> list[Certificate | None]:
        """The certificate of each kernel, as for a search of several, with the expected loss."""
        return [self.proposer.certificate(self._settings.tolerance, with_loss=True)]

    @property
    def default_us(self) -> float | None:
        """Time of the default config in us; None before it was measured, and if it cannot run."""
        return self.measured.get(config_key(self.default))

    def is_sure(self, under_way: int = 0) -> bool:
        """Say whether the stop rule ends the search now, or will once so many more configs have a time."""
        rule = self._settings.stop_rule
        if rule is None or self.launched_configs + under_way < rule.least:
            return False
        certificate = self.certificate
        return certificate is not None and rule.done(certificate, under_way)

    def _wants_more(self, budget: int | None) -> bool:
        under_way = len(self._pending)
        if under_way >= self._lookahead() or not self.may_start(budget, under_way):
            return False
        if self._settings.stop_rule is None:
            return True
        # The end of the search does not wait for overdue configs. But a config begun in their place takes a compile,
        # too.
        overdue_s = self._overdue_s
        counted_on = sum(one.build.done() or one.waited_s < overdue_s for one in self._pending)
        if counted_on and self._is_nearly_sure(self._settings.stop_rule):
            return False
        return not self.is_sure(counted_on)

    def _is_nearly_sure(self, rule: StopRule) -> bool:
        """Say whether what is under way will probably be the end, so that anything begun beside it would be wasted."""
        certificate = self._certified[1] if self._certified is not None else None
        return certificate is not None and 1.0 - certificate.probability < NEARLY * rule.risk

    def may_start(self, budget: int | None, under_way: int) -> bool:
        """Say whether budget and candidates allow another config, besides those under way."""
        if budget is not None:
            done = self.launched_configs
            invalid = len(self.trials) - done
            if done + under_way >= budget or invalid >= MOST_INVALID_PER_LAUNCHED * budget:
                return False
        return not self.default_is_tried or bool(self._untried)

    @property
    def default_is_tried(self) -> bool:
        """Whether the default config was tried or is under way."""
        return config_key(self.default) in self._tried

    def _mark_tried(self, config: Config) -> None:
        key = config_key(config)
        self._tried.add(key)
        self._untried.discard(key)

    def start(self, config: dict[str, int] | None = None) -> Pending:
        """Start the default or a rival if one is new, or else the given config, or else a proposed one."""
        start = datetime.now()
        proposal: Proposal | None = None
        config = self._first() or config
        if config is None or config in self.candidates:
            before = time.perf_counter()
            proposal = self.proposer.propose(config)
            self.propose_s += time.perf_counter() - before
            config = proposal.config
        self._mark_tried(config)
        return Pending(config, proposal, self._build(config), start)

    def _build(self, config: dict[str, int]) -> Future[Build]:
        """Start compiling a config, unless that has begun."""
        if self._ahead is not None and config_key(config) == config_key(self.default):
            begun, self._ahead = self._ahead, None
            return begun
        return self.device.compile(self.problem, config)

    def _first(self) -> dict[str, int] | None:
        """Return the next of the configs that come before all others, or None if all were tried."""
        if not self.default_is_tried:
            return self.default
        return next((config for config in self._rivals if config_key(config) not in self._tried), None)

    def _evaluate(self, pending: Pending) -> Outcome:
        build = pending.build.result()
        if not build.compilation.cached:
            self._waited_s.append(pending.waited_s)
        if isinstance(build, Invalid):
            return build
        incumbent = self._incumbent_us(pending.config) if self._may_be_given_up(pending.config) else None
        return self.device.measure(self.problem, pending.config, build, stop_above_us=incumbent)

    def _may_be_given_up(self, config: Config) -> bool:
        """Say whether a slow config ends early. The default never does, since every result is compared with it."""
        return self._settings.stop_slow and config_key(config) != config_key(self.default)

    def _incumbent_us(self, config: Config) -> float | None:
        if self._apart is None:
            return self.best_us
        value = (self._apart, config[self._apart])
        return min((time for key, time in self.measured.items() if value in key), default=None)

    def _record(self, pending: Pending, outcome: Outcome) -> None:
        trial = to_trial(pending.config, outcome, start=pending.start, end=datetime.now(), ranges=self._ranges)
        if pending.proposal is None:
            self.proposer.learn(trial)
        else:
            self.proposer.finish(pending.proposal, trial)
        self._remember(trial)
        self.launches += outcome.launches
        so_far = self.best_us, self.default_us, self.sure
        recorded = TrialRecorded(self.stored.name, self.problem, pending.config, outcome, *so_far)
        self.stored.add_soon(trial, partial(self._listener, recorded))

    def _remember(self, trial: FrozenTrial) -> None:
        self.trials.append(trial)
        self.launched_configs += launched(trial)
        self._mark_tried(trial.params)
        if trial.value is not None:
            self.measured[config_key(trial.params)] = trial.value
            self.best_us = trial.value if self.best_us is None else min(self.best_us, trial.value)
