"""Searches studies of kernels that must agree on one parameter together. Each trial is one config of one kernel."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from optuna.study import Study

from bo_tune.core.conclusion import SHARED, Certificate, LayerTimes
from bo_tune.core.outcome import Launches
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.surroundings import Mixture
from bo_tune.errors import DeviceError
from bo_tune.search import FiniteGridSampler
from bo_tune.search.joint import Member, certify_jointly, next_config
from bo_tune.store.trials import time_us
from bo_tune.tuning.joint.choice import JointChoice, choose_jointly
from bo_tune.tuning.joint.in_place import race_layer
from bo_tune.tuning.proposer import SamplerProposer
from bo_tune.tuning.settings import TunerSettings
from bo_tune.tuning.tuner import InterruptedSearch, Pending, Tuner, take_ready


class JointTuner:
    """Searches the configs of kernels that have one value of ``SHARED`` and the least sum of times.

    Every kernel keeps its own stored study, candidates and surrogate (its ``Tuner``). This class decides which of them
    tries what next (``search.joint``), and when all have done enough. Studies whose sampler has no model take turns.

    Args:
        tuners: one for each kernel, in the order in which a layer runs them.
        settings: of all the studies; the budget is each kernel's own.
        lookahead: returns how many configs may be under way at once.
        stop: set by whoever wants the search to end after the trial under way.
    """

    def __init__(
        self,
        tuners: Sequence[Tuner],
        settings: TunerSettings,
        *,
        lookahead: Callable[[], int] = lambda: 1,
        stop: threading.Event | None = None,
    ) -> None:
        self.tuners = tuple(tuners)
        self._settings = settings
        self._lookahead = lookahead
        self._stop = stop or threading.Event()
        self._pending: deque[tuple[Tuner, Pending]] = deque()
        self._members: dict[int, tuple[tuple[int, int], Member]] = {}
        self._certified: tuple[int, Certificate] | None = None

    def search(self, budget: int | None = None) -> None:
        """Try configs until ``budget`` (by default the settings') of each kernel are launched, or enough is known.

        Raises:
            InterruptedSearch: when asked to stop.
        """
        budget = self._settings.budget if budget is None else budget
        try:
            self._search(budget)
        finally:
            for tuner in self.tuners:
                tuner.stored.flush()

    def _search(self, budget: int | None) -> None:
        while True:
            if self._stop.is_set():
                raise InterruptedSearch
            while len(self._pending) < self._lookahead() and self._start_one(budget):
                pass
            if not self._pending:
                return
            if (ready := take_ready(self._pending, lambda one: one[1].build)) is not None:
                tuner, pending = ready
                tuner.finish(pending)

    def _start_one(self, budget: int | None) -> bool:
        """Start a config of one kernel. Returns whether there was one to start."""
        willing = [tuner.may_start(budget, self._under_way(tuner)) for tuner in self.tuners]
        if not any(willing) or self.is_sure():
            return False
        able = [tuner for tuner, may in zip(self.tuners, willing, strict=True) if may]
        new = [tuner for tuner in able if not tuner.default_is_tried or _is_starting(tuner)]
        with (new or able)[0].timed():
            if new or not self._has_models:
                tuner, config = min(new or able, key=lambda t: len(t.trials) + self._under_way(t)), None
            else:
                before = time.perf_counter()
                found = next_config([self._member(tuner) for tuner in self.tuners], willing)
                if found is None:
                    return False
                tuner = self.tuners[found[0]]
                tuner.propose_s += time.perf_counter() - before
                config = {name: tuner.candidates.space[found[1]][name] for name in tuner.candidates.space.names}
            self._pending.append((tuner, tuner.start(config)))
        return True

    def _under_way(self, tuner: Tuner) -> int:
        return sum(owner is tuner for owner, _ in self._pending)

    @property
    def _has_models(self) -> bool:
        return all(_model(tuner) and _known(tuner) for tuner in self.tuners)

    def _member(self, tuner: Tuner) -> Member:
        """Return what a study knows. It is read again only if the study has changed."""
        model = _model(tuner)
        assert model is not None
        state = len(tuner.trials), self._under_way(tuner)
        known = self._members.get(id(tuner))
        if known is None or known[0] != state:
            known = self._members[id(tuner)] = state, Member.of(*model, SHARED)
        return known[1]

    @property
    def certificates(self) -> list[Certificate | None]:
        """The joint certificate, once for each kernel, with the expected loss."""
        return [self._certify(with_loss=True) if self._has_models else None] * len(self.tuners)

    def _certify(self, *, with_loss: bool) -> Certificate:
        members = [self._member(tuner) for tuner in self.tuners]
        return certify_jointly(members, self._settings.tolerance, with_loss=with_loss)

    @property
    def certificate(self) -> Certificate | None:
        """The models' certificate that no untried combination is better; None without models."""
        if not self._has_models:
            return None
        trials = sum(len(tuner.trials) for tuner in self.tuners)
        if self._certified is None or self._certified[0] != trials:
            self._certified = trials, self._certify(with_loss=False)
            for tuner in self.tuners:
                tuner.sure = self._certified[1].probability
        return self._certified[1]

    def is_sure(self) -> bool:
        """Say whether the stop rule ends the search here."""
        rule = self._settings.stop_rule
        if rule is None or min(tuner.launched_configs for tuner in self.tuners) < rule.least:
            return False
        certificate = self.certificate
        return certificate is not None and rule.done(certificate)

    def choose(self) -> JointChoice | None:
        """Re-measure the finalists of ``SHARED``'s best values and choose. Returns None if nothing was measured."""
        found, launches = self._race_in_place()
        choice = choose_jointly(self.tuners, self._settings.finalists, found=found)
        if choice is None:
            return None
        first, *rest = choice.choices
        choice = replace(choice, choices=(replace(first, launches=first.launches + launches), *rest))
        for tuner, one in zip(self.tuners, choice.choices, strict=True):
            tuner.launches += one.launches
        return choice

    def _race_in_place(self) -> tuple[tuple[Sequence[ConfigKey], LayerTimes] | None, Launches]:
        """Race in the layer if there is one that runs. Otherwise the times alone decide."""
        first, layer = self.tuners[0], self.tuners[0].layer
        if not isinstance(layer, Mixture) or not all(tuner.measured for tuner in self.tuners):
            return None, Counter()
        problems = [tuner.problem for tuner in self.tuners]
        measured, defaults = zip(*((tuner.measured, config_key(tuner.default)) for tuner in self.tuners), strict=True)
        try:
            return race_layer(first.device, problems, layer, measured, defaults, self._settings.finalists)
        except DeviceError:
            return None, Counter()


def _known(tuner: Tuner) -> int:
    return sum(time_us(trial) is not None for trial in tuner.trials)


def _is_starting(tuner: Tuner) -> bool:
    model = _model(tuner)
    return model is not None and model[0].is_starting(_known(tuner))


def _model(tuner: Tuner) -> tuple[FiniteGridSampler, Study] | None:
    """Return the sampler whose model can be asked about any config, and the study it sees; None without one."""
    proposer = tuner.proposer
    if isinstance(proposer, SamplerProposer) and isinstance(proposer.sampler, FiniteGridSampler):
        return proposer.sampler, proposer.study
    return None
