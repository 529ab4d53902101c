"""What users choose between, and what holds where they do not, for those who ask without loading what is behind it."""

from enum import StrEnum

GRID_GP = "grid-gp"
"""The project's own sampler."""

GRID = "grid"
"""The sampler that makes a search exhaustive."""

SAMPLERS = (GRID_GP, "random", "tpe", "gp", "coordinate", "coordinate-restarts", GRID)
"""Names of all samplers, as study files and the command line take them."""

KERNEL_SOURCES = ("auto", "vllm", "builtin", "sglang")
"""Whose kernels are measured: those of the installed vLLM or SGLang, the project's own, or those of the engine that
serves the model, as far as they are there."""


class EngineChoice(StrEnum):
    """What serves a model."""

    VLLM = "vllm"
    SGLANG = "sglang"


class RaceChoice(StrEnum):
    """Where the finalists of a study are timed in the end."""

    ALONE = "alone"
    """Each behind a cleared cache, with nothing else on the GPU."""
    IN_PLACE = "in-place"
    """In the layer of the model that they serve, as an engine runs it; alone where the layer is not known."""


class StreamChoice(StrEnum):
    """How engines run adapters."""

    ONE = "one"
    """Behind the base layer."""
    TWO = "two"
    """Beside it, on a stream of their own: ``VLLM_LORA_ENABLE_DUAL_STREAM=1``."""
    BOTH = "both"
    """Either way."""

    @property
    def ways(self) -> tuple[bool, ...]:
        """Whether there is a second stream, for each way that is meant."""
        return {"one": (False,), "two": (True,), "both": (False, True)}[self.value]


class ReportFormat(StrEnum):
    """In which form a report is written."""

    HTML = "html"
    MARKDOWN = "markdown"


class ProgressChoice(StrEnum):
    """How a session is shown while it runs."""

    AUTO = "auto"
    """For people: a live display in a terminal, lines elsewhere."""
    JSON = "json"
    """For programs: every event as a line of JSON on stdout, and nothing else there."""


class Part(StrEnum):
    """What of a served model is tuned."""

    LORA = "lora"
    """Its adapters' kernels."""
    EXPERTS = "experts"
    """The base model's experts."""
    MAMBA = "mamba"
    """The decode steps of its Mamba-2 layers."""


class LayersFrom(StrEnum):
    """What tells which layers of a model take adapters."""

    TABLE = "table"
    """The table of architectures."""
    ENGINE = "engine"
    """The installed vLLM."""


class MoePathChoice(StrEnum):
    """Which way an engine goes through the experts' adapters is tuned for."""

    AUTO = "auto"
    ONE_LAUNCH = "one-launch"
    TWO_KERNELS = "two-kernels"


DEFAULT_DEVICE = "cuda"

DEFAULT_STORAGE = "sqlite:///bo_tune.db"

MEMORY = "memory"
"""Storage that keeps nothing after the process: for replays that can be run again."""

LEASE_S = 30.0
"""For how long a lease on a study holds without being renewed."""
