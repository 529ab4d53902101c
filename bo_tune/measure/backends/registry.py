"""The vendors whose GPUs can be tuned on, by the word that devices and targets begin with."""

from functools import cache
from importlib import import_module

from bo_tune.core.problem import DEFAULT_BACKEND
from bo_tune.measure.backends.base import Backend

BACKENDS = {
    DEFAULT_BACKEND: "bo_tune.measure.backends.nvidia.backend:Nvidia",
}
"""Module and class of each vendor. They are imported when they are asked for."""


def backend_named(name: str) -> Backend:
    """Return a vendor by the name of its backend. Raises KeyError where there is none."""
    return _loaded(BACKENDS[name])


@cache
def _loaded(place: str) -> Backend:
    module, _, name = place.partition(":")
    made: Backend = getattr(import_module(module), name)()
    return made
