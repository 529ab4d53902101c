"""Choices of users and their defaults, for code that asks without loading what is behind them."""

from enum import StrEnum

GRID_GP = "grid-gp"
"""The project's own sampler."""

GRID = "grid"
"""The sampler that makes a search exhaustive."""

SAMPLERS = (GRID_GP, "random", "tpe", "gp", "coordinate", "coordinate-restarts", GRID)
"""Names of all samplers, as in study files and on the command line."""

KERNEL_SOURCES = ("auto", "vllm", "builtin", "sglang")
"""Sources of the kernels to measure: the installed vLLM or SGLang, the project itself, or the engine that serves the
model, as far as it is installed."""


class EngineChoice(StrEnum):
    """The engine that serves a model."""

    VLLM = "vllm"
    SGLANG = "sglang"


class RaceChoice(StrEnum):
    """Where the finalists of a study race."""

    ALONE = "alone"
    """Each behind a cleared cache, with nothing else on the GPU."""
    IN_PLACE = "in-place"
    """In the layer of the model that they serve, as an engine runs it; alone if the layer is unknown."""


class StreamChoice(StrEnum):
    """How engines run adapters."""

    ONE = "one"
    """After the base layer."""
    TWO = "two"
    """Beside it, on a separate stream: ``VLLM_LORA_ENABLE_DUAL_STREAM=1``."""
    BOTH = "both"
    """Either way."""

    @property
    def ways(self) -> tuple[bool, ...]:
        """Whether there is a second stream, for each way that is meant."""
        return {"one": (False,), "two": (True,), "both": (False, True)}[self.value]


class ReportFormat(StrEnum):
    """The format of a report."""

    HTML = "html"
    MARKDOWN = "markdown"


class ProgressChoice(StrEnum):
    """How a session is shown while it runs."""

    AUTO = "auto"
    """For people: a live display in a terminal, lines elsewhere."""
    JSON = "json"
    """For programs: every event as a line of JSON on stdout, and nothing else there."""


class Part(StrEnum):
    """The part of a served model to tune."""

    LORA = "lora"
    """Its adapters' kernels."""
    EXPERTS = "experts"
    """The base model's experts."""
    MAMBA = "mamba"
    """The decode steps of its Mamba-2 layers."""


class LayersFrom(StrEnum):
    """The source that tells which layers of a model take adapters."""

    TABLE = "table"
    """The table of architectures."""
    ENGINE = "engine"
    """The installed vLLM."""


class MoePathChoice(StrEnum):
    """The path through the experts' adapters to tune for."""

    AUTO = "auto"
    ONE_LAUNCH = "one-launch"
    TWO_KERNELS = "two-kernels"


DEFAULT_DEVICE = "cuda"

DEFAULT_STORAGE = "sqlite:///bo_tune.db"

MEMORY = "memory"
"""Storage that keeps nothing after the process, for replays that can be repeated."""

LEASE_S = 30.0
"""Time for which a lease on a study holds without renewal."""
