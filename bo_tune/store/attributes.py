"""Under which keys studies' attributes are stored, and which version of their meaning that is."""

SCHEMA_VERSION = 2
"""Of what this package stores in Optuna's tables. Raised when a stored trial or result changes its meaning.

1: studies are named without toolchain, sampler and seed, and results do not tell which search they are of. They are
read as they are; no search takes them for its own.
2: with all of these.
"""

READABLE = (1, SCHEMA_VERSION)

PREFIX = "bo_tune:"
"""Of every key."""

SCHEMA_ATTR = "bo_tune:schema"
NAME_ATTR = "bo_tune:name"
GPU_ATTR = "bo_tune:gpu"
RESULT_ATTR = "bo_tune:result"
SPACE_ATTR = "bo_tune:space"
JOB_ATTR = "bo_tune:job"
"""How a session wants the study searched; whoever takes the study does it like this."""
DONE_ATTR = "bo_tune:done"
"""The job as it was when the study was last brought to its end."""

FIGURES_ATTR = "bo_tune:figures"
"""Counts of the trials of a study that was brought to its end (``results.figures_of``)."""
ORIGIN_ATTR = "bo_tune:origin"
"""What measured the result, and in which session: versions of driver, torch, triton and ptxas."""
FRESH_ATTR = "bo_tune:fresh"
"""Since when a session that begins its studies anew has this one (ISO 8601, UTC); None once it has come to its end."""

DISTURBED_ATTR = "bo_tune:disturbed"
"""What disturbed measuring the study, ``gpu_watch``'s words; not there where it is not known that nothing did."""

HOSTS_ATTR = "bo_tune:hosts"
"""In which states hosts have named the study, by their digests (``measure.host_state``), with what else they said of
it: enough to find it again without starting a GPU."""

LAYERS_ATTR = "bo_tune:layers"
"""Names of the layers of models that ask for the problem's config, as far as sessions have told; for people alone."""

ALIKE = frozenset(
    [LAYERS_ATTR, HOSTS_ATTR, SCHEMA_ATTR, GPU_ATTR, SPACE_ATTR, JOB_ATTR, DONE_ATTR, FIGURES_ATTR, ORIGIN_ATTR]
)
"""Attributes of which many studies have the same: each text is read and checked once."""
