"""The keys under which studies' attributes are stored, and the version of their meaning."""

SCHEMA_VERSION = 2
"""Version of what this package stores in Optuna's tables. Raised when a stored trial or result changes its meaning.

1: studies are named without toolchain, sampler and seed, and results do not say to which search they belong. They are
read as they are, but no search takes them for its own.
2: has all of these.
"""

READABLE = (1, SCHEMA_VERSION)

PREFIX = "bo_tune:"
"""Prefix of every key."""

SCHEMA_ATTR = "bo_tune:schema"
NAME_ATTR = "bo_tune:name"
GPU_ATTR = "bo_tune:gpu"
RESULT_ATTR = "bo_tune:result"
SPACE_ATTR = "bo_tune:space"
JOB_ATTR = "bo_tune:job"
"""The search that a session wants for the study. Whoever takes the study follows it."""
DONE_ATTR = "bo_tune:done"
"""The job as it was when the study was last finished."""

FIGURES_ATTR = "bo_tune:figures"
"""Counts of the trials of a finished study (``results.figures_of``)."""
ORIGIN_ATTR = "bo_tune:origin"
"""Origin of the result: the session, and the versions of driver, torch, triton and ptxas that measured it."""
FRESH_ATTR = "bo_tune:fresh"
"""Time at which a session that begins its studies anew took this one (ISO 8601, UTC). None once it has ended."""

DISTURBED_ATTR = "bo_tune:disturbed"
"""Disturbances while the study was measured (``watch.neighbours``). Missing if there may have been unknown ones."""

HOSTS_ATTR = "bo_tune:hosts"
"""The states in which hosts have named the study, by their digests (``measure.host_state``), with what else they said
about it: enough to find it again without starting a GPU."""

LAYERS_ATTR = "bo_tune:layers"
"""Names of the layers of models that look the problem's config up, as far as sessions have told. Only for people."""

ALIKE = frozenset(
    [LAYERS_ATTR, HOSTS_ATTR, SCHEMA_ATTR, GPU_ATTR, SPACE_ATTR, JOB_ATTR, DONE_ATTR, FIGURES_ATTR, ORIGIN_ATTR]
)
"""Attributes that many studies share: each text is read and checked once."""
