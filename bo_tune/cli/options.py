"""Options that several commands share, alone or in groups (``bo_tune.cli.app`` has a command take a group's fields)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bo_tune.cli import completion
from bo_tune.core.choices import (
    DEFAULT_DEVICE,
    KERNEL_SOURCES,
    MEMORY,
    SAMPLERS,
    MoePathChoice,
    Part,
    ProgressChoice,
    StreamChoice,
)
from bo_tune.core.conditions import Conditions, Routing, Timing, Tokens
from bo_tune.core.outcome import MOST_SECONDS
from bo_tune.core.problem import MOST
from bo_tune.errors import InputError

if TYPE_CHECKING:
    from bo_tune.session.workers.measuring import Measured

PROBLEM = "Problem"
SEARCH = "Search"
DEVICE = "Device"
DATABASE = "Database"
OUTPUT = "Output"
"""Panels of ``--help``."""

MOST_PROCESSES = 1024


def option(
    panel: str | None,
    metavar: str,
    text: str,
    *names: str,
    complete: Callable[[str], list[str]] | None = None,
    **more: Any,
) -> Any:
    """Describe an option, of the parameter's own name where no other is given.

    Args:
        metavar: what stands for its value.
        complete: what TAB offers for what was typed of a value.
        more: bounds of a number.
    """
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, autocompletion=complete, **more)


def flag(panel: str, text: str, *names: str) -> Any:
    """Describe an option without a value."""
    return option(panel, "", text, *names)


def sampler_name(name: str) -> str:
    """Check a sampler's name. Raises InputError."""
    if name not in SAMPLERS:
        raise InputError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {name!r}")
    return name


def kernel_choice(name: str) -> str:
    """Check whose kernels are to be tuned. Raises InputError."""
    if name not in KERNEL_SOURCES:
        raise InputError(f"--kernels: expected one of {', '.join(KERNEL_SOURCES)}, got {name!r}")
    return name


def integers(texts: Iterable[str] | None, option: str) -> list[int]:
    """Read an option that takes integers above 0, comma-separated, given once or several times.

    Raises:
        InputError: a value is something else.
    """
    words = [word.strip() for text in texts or () for word in text.split(",")]
    if not all(word.isdecimal() and len(word) <= len(str(MOST)) and 0 < int(word) <= MOST for word in words):
        from bo_tune.files import shown

        raise InputError(f"{option}: expected integers from 1 to {MOST}, comma-separated, got {shown(','.join(words))}")
    return list(dict.fromkeys(int(word) for word in words))


def json_of(option: str, path: Path) -> Any:
    """Read the JSON file that an option names. Raises InputError."""
    from bo_tune.files import os_error_text, parse_json, read_file

    try:
        return parse_json(read_file(path))
    except (OSError, ValueError) as error:
        why = os_error_text(error) if isinstance(error, OSError) else error
        raise InputError(f"{option}: {path}: {why}") from None


def streams_option(usual: str) -> Any:
    """Describe how adapters are to be run, and what is usual."""
    text = f"Run adapters after the base layer, beside it (VLLM_LORA_ENABLE_DUAL_STREAM=1), or serve both. {usual}"
    return option(PROBLEM, "|".join(StreamChoice), text, "--streams")


Streams = Annotated[StreamChoice | None, streams_option("Default: one, or what the study file says.")]
DUAL_STREAM = flag(PROBLEM, "For an engine with VLLM_LORA_ENABLE_DUAL_STREAM=1.", "--dual-stream")


KernelSource = Annotated[
    str,
    option(
        DEVICE,
        "|".join(KERNEL_SOURCES),
        "Whose kernels to tune. auto: those of the engine that serves the model, if vLLM is installed; otherwise "
        "bo_tune's own.",
        complete=completion.kernel_sources,
    ),
]
RequireIdle = Annotated[
    bool, flag(DEVICE, "Refuse to measure on a GPU that others use or might use.", "--require-idle")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What measures, and how."""

    device: Annotated[
        str,
        option(
            DEVICE,
            "cuda[:N]|replay:DIR",
            "The device that measures: a GPU, or recorded grids.",
            complete=completion.devices,
        ),
    ] = DEFAULT_DEVICE
    gpus: Annotated[str | None, option(DEVICE, "all|N,…", "GPUs of this host to tune on in parallel.")] = None
    require_idle: RequireIdle = False
    kernels: KernelSource = "auto"
    timing: Annotated[
        Timing,
        option(
            DEVICE,
            "|".join(Timing),
            "How to treat the L2 cache: clear it before each launch, leave it as it is, or launch in a CUDA graph.",
        ),
    ] = Timing.COLD
    tokens: Annotated[Tokens, option(DEVICE, "|".join(Tokens), "How tokens are distributed over the adapters.")] = (
        Tokens.UNIFORM
    )
    active_loras: Annotated[
        list[str] | None,
        option(
            DEVICE,
            "N,…",
            "Number of adapters that a step uses. Default: one for each slot. With several numbers, the "
            "finalists that race in the model's layers are judged by their mean over them.",
        ),
    ] = None
    experts: Annotated[
        str,
        option(
            DEVICE,
            "uniform|zipf|FILE",
            "How tokens choose experts. FILE: a JSON list with the number of hits of each expert.",
            complete=completion.routings,
        ),
    ] = Routing.UNIFORM.value
    jobs: Annotated[
        int | None,
        option(DEVICE, "N", "Compile processes. Default: one less than there are cores.", min=1, max=MOST_PROCESSES),
    ] = None
    pack: Annotated[
        list[Path] | None,
        option(DEVICE, "FILE", "Pack made by bo-tune compile, whose binaries need no compiling here. May be repeated."),
    ] = None

    @property
    def active(self) -> list[int]:
        """How many adapters a step uses; none where nothing is said. Raises InputError."""
        return integers(self.active_loras, "--active-loras")

    def measured(
        self,
        path: MoePathChoice = MoePathChoice.AUTO,
        *,
        dual_stream: bool,
        deadline_s: float | None = None,
        mixed: bool = False,
    ) -> "Measured":
        """Return what these options mean.

        Args:
            path: which way an engine goes through the experts' adapters.
            mixed: whether steps may use several numbers of adapters.
            dual_stream: whether the engine has two streams.
            deadline_s: after how long a compile is given up, at most.

        Raises:
            InputError: the experts' spread is neither one by name nor a readable file of hits.
        """
        from bo_tune.session.workers.measuring import Measured

        routing, hits = self._routing()
        if len(active := self.active) > 1 and not mixed:
            raise InputError(f"--active-loras: expected one number, because no finalists race here, got {len(active)}")
        return Measured(
            self.device,
            kernel_choice(self.kernels),
            Conditions(self.timing, self.tokens, active[0] if len(active) == 1 else None, routing, hits, dual_stream),
            self.jobs,
            tuple(self.pack or ()),
            self.gpus,
            path,
            self.require_idle,
            deadline_s,
        )

    def _routing(self) -> tuple[Routing, tuple[int, ...]]:
        if self.experts in (Routing.UNIFORM, Routing.ZIPF):
            return Routing(self.experts), ()
        hits = json_of("--experts", Path(self.experts))
        if not isinstance(hits, list) or not hits or not all(type(count) is int and count >= 0 for count in hits):
            raise InputError(f"--experts: {self.experts}: expected a list with the number of hits of each expert")
        return Routing.RECORDED, tuple(hits)


Study = Annotated[
    Path | None,
    typer.Argument(
        metavar="STUDY.toml",
        help="Study file. Alternatively, name a model with --model.",
        autocompletion=completion.study_files,
    ),
]
Kernel = Annotated[
    list[str] | None, option(PROBLEM, "NAME", "Only this kernel. May be repeated.", complete=completion.kernels)
]
Only = Annotated[
    list[str] | None,
    option(
        PROBLEM,
        f"{'|'.join(Part)},…",
        "What to tune of a model: its adapters' kernels, the base model's experts, its Mamba-2 layers. Default: "
        f"all of them with vLLM's kernels, but only {Part.LORA} for grid and recordings.",
    ),
]
Lease = Annotated[
    float,
    option(
        DATABASE,
        "SECONDS",
        "Time without a word from a worker after which others take over its studies.",
        min=1.0,
        max=MOST_SECONDS,
    ),
]
Fresh = Annotated[
    bool,
    flag(
        DATABASE,
        "Measure everything again, and set existing studies aside. After an interruption, the same command resumes.",
        "--fresh",
    ),
]
Storage = Annotated[
    str, option(DATABASE, "URL", f"Database of the studies. '{MEMORY}' keeps nothing.", complete=completion.storages)
]
Budget = Annotated[int | None, option(SEARCH, "N", "Configs to launch in each study.", min=1)]
Seed = Annotated[
    int | None, option(SEARCH, "N", "Seed of the samplers and of replayed measurements.", min=0, max=2**32 - 1)
]
Sampler = Annotated[
    str | None,
    option(SEARCH, "NAME", f"How configs are proposed: {', '.join(SAMPLERS)}.", complete=completion.samplers),
]
Bundled = Annotated[bool, flag(SEARCH, "Also learn from the grids that come with bo_tune.", "--bundled/--no-bundled")]
CompileJobs = Annotated[
    int | None,
    option(DEVICE, "N", "Compile processes. Default: one for each core.", min=1, max=MOST_PROCESSES),
]
Out = Annotated[Path, option(OUTPUT, "DIR", "Folder to write the JSON files to.")]
JsonFile = Annotated[
    Path | None,
    option(
        OUTPUT, "FILE", "Also write the result as JSON. '-' writes it to stdout, and nothing else goes there.", "--json"
    ),
]
Progress = Annotated[
    ProgressChoice,
    option(
        OUTPUT,
        "|".join(ProgressChoice),
        "json: write every event to stdout as a line of JSON, and nothing else. Warnings go to stderr.",
    ),
]
Verbose = Annotated[bool, flag(OUTPUT, "Print every recorded trial.", "--verbose", "-v")]
Quiet = Annotated[bool, flag(OUTPUT, "Print only what went wrong.", "--quiet", "-q")]
