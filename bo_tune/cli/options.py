"""Options that several commands share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import completion
from bo_tune.core.choices import KERNEL_SOURCES, MEMORY, SAMPLERS, StreamChoice
from bo_tune.core.conditions import Conditions, Routing, Timing
from bo_tune.core.conditions import Tokens as Spread
from bo_tune.core.outcome import MOST_SECONDS
from bo_tune.core.problem import MOST
from bo_tune.engines.models.engine import MAX_SEQUENCES
from bo_tune.errors import InputError


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


def names(texts: Iterable[str] | None) -> list[str] | None:
    """Read an option that takes names, comma-separated, given once or several times; None where it was not given."""
    words = [word.strip() for text in texts or () for word in text.split(",")]
    return [word for word in dict.fromkeys(words) if word] or None


def sampler_name(name: str) -> str:
    """Check a sampler's name. Raises InputError."""
    if name not in SAMPLERS:
        raise InputError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {name!r}")
    return name


def conditions(timing: Timing, tokens: Spread, adapters: int | None, experts: str) -> Conditions:
    """Return the conditions that the command line names.

    Raises:
        InputError: the experts' spread is neither one by name nor a readable file of hits.
    """
    from bo_tune.files import os_error_text, parse_json, read_file

    if experts in (Routing.UNIFORM, Routing.ZIPF):
        return Conditions(timing, tokens, adapters, Routing(experts))
    try:
        hits = parse_json(read_file(Path(experts)))
    except OSError as error:
        raise InputError(f"--experts: {experts}: {os_error_text(error)}") from None
    except ValueError as error:
        raise InputError(f"--experts: {experts}: {error}") from None
    if not isinstance(hits, list) or not hits or not all(type(count) is int and count >= 0 for count in hits):
        raise InputError(f"--experts: {experts}: expected a list of how often each expert was hit")
    return Conditions(timing, tokens, adapters, Routing.RECORDED, tuple(hits))


PROBLEM = "Problem"
SEARCH = "Search"
DEVICE = "Device"
DATABASE = "Database"
OUTPUT = "Output"
"""Panels of ``--help``."""

MOST_PROCESSES = 1024

FLAG = ""
"""What ``--help`` shows as the value of an option that takes none."""

Study = Annotated[
    Path | None,
    typer.Argument(
        metavar="STUDY.toml",
        help="Study file; or name a model with --model.",
        show_default=False,
        autocompletion=completion.study_files,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|ID",
        help="Hugging Face config.json, its folder, or a model's id, instead of a study file.",
        rich_help_panel=PROBLEM,
    ),
]
TensorParallel = Annotated[
    int | None,
    typer.Option(
        "--tp",
        min=1,
        metavar="N",
        help="Tensor-parallel size of the served model: 1.",
        show_default=False,
        rich_help_panel=PROBLEM,
    ),
]
MaxLoras = Annotated[
    list[str] | None,
    typer.Option(metavar="N,…", help="The engine's --max-loras.", show_default=False, rich_help_panel=PROBLEM),
]
Rank = Annotated[
    list[str] | None,
    typer.Option(metavar="N,…", help="The engine's --max-lora-rank.", show_default=False, rich_help_panel=PROBLEM),
]
FullySharded = Annotated[
    bool,
    typer.Option("--fully-sharded", metavar=FLAG, help="The engine's --fully-sharded-loras.", rich_help_panel=PROBLEM),
]
TargetModules = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME,…",
        help="The engine's --lora-target-modules. All that vLLM supports by default.",
        show_default=False,
        rich_help_panel=PROBLEM,
    ),
]
AdapterPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="PATH",
        help="An adapter's adapter_config.json, or its folder: gives rank and target modules where they are left out. "
        "May be repeated: the largest rank and all their modules count.",
        show_default=False,
        rich_help_panel=PROBLEM,
    ),
]
ExpertParallel = Annotated[
    bool,
    typer.Option(
        "--expert-parallel", metavar=FLAG, help="The engine's --enable-expert-parallel.", rich_help_panel=PROBLEM
    ),
]
MaxNumSeqs = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST,
        metavar="N",
        help=f"The engine's --max-num-seqs, the most rows that lm_head gets: {MAX_SEQUENCES}.",
        show_default=False,
        rich_help_panel=PROBLEM,
    ),
]
DualStream = Annotated[
    bool,
    typer.Option(
        "--dual-stream",
        metavar=FLAG,
        help="For an engine with VLLM_LORA_ENABLE_DUAL_STREAM=1.",
        rich_help_panel=PROBLEM,
    ),
]
Streams = Annotated[
    StreamChoice,
    typer.Option(
        "--streams",
        metavar="|".join(StreamChoice),
        help="Adapters behind the base layer, beside it (VLLM_LORA_ENABLE_DUAL_STREAM=1), or either way.",
        rich_help_panel=PROBLEM,
    ),
]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        "--m",
        metavar="N,…",
        help="Tokens in a step; powers of two by default. 'auto' has tune add those that are worth it.",
        show_default=False,
        rich_help_panel=PROBLEM,
    ),
]
Kernel = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Only this kernel; may be repeated.",
        show_default=False,
        rich_help_panel=PROBLEM,
        autocompletion=completion.kernels,
    ),
]
KernelSource = Annotated[
    str,
    typer.Option(
        "--kernels",
        metavar="|".join(KERNEL_SOURCES),
        help="Whose kernels; auto: vLLM's if installed.",
        rich_help_panel=DEVICE,
        autocompletion=completion.kernel_sources,
    ),
]
TimingKind = Annotated[
    Timing,
    typer.Option(
        "--timing",
        metavar="|".join(Timing),
        help="L2 cache cleared before each launch, as left, or launches in a CUDA graph.",
        rich_help_panel=DEVICE,
    ),
]
ActiveMix = Annotated[
    list[str] | None,
    typer.Option(
        "--active-loras",
        metavar="N,…",
        help="Adapters that a step uses; of several numbers the mean decides, in the model's layers. As many as there "
        "are slots by default.",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
ActiveLoras = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST,
        metavar="N",
        help="Adapters that a step uses. As many as there are slots by default.",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
ExpertSpread = Annotated[
    str,
    typer.Option(
        "--experts",
        metavar="uniform|zipf|FILE",
        help="How tokens choose experts; FILE: a JSON list of how often each expert was hit.",
        rich_help_panel=DEVICE,
        autocompletion=completion.routings,
    ),
]
TokenSpread = Annotated[
    Spread,
    typer.Option(
        "--tokens",
        metavar="|".join(Spread),
        help="How tokens are spread over the adapters.",
        rich_help_panel=DEVICE,
    ),
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="cuda[:N]|replay:DIR",
        help="What measures: a GPU, or recorded grids.",
        rich_help_panel=DEVICE,
        autocompletion=completion.devices,
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="all|N,…",
        help="GPUs of this host, tuned side by side.",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
RequireIdle = Annotated[
    bool,
    typer.Option(
        "--require-idle",
        metavar=FLAG,
        help="Measure on no GPU that others use, or of which that is not known.",
        rich_help_panel=DEVICE,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Have workers on a Ray cluster do it, one on each GPU; 'local' starts one here.",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_PROCESSES,
        metavar="N",
        help="Tuning processes: with a pack one for each GPU by default, else one. With --ray: workers on the cluster.",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_PROCESSES,
        metavar="N",
        help="Compile processes; one less than the cores by default.",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
Packs = Annotated[
    list[Path] | None,
    typer.Option(
        "--pack",
        metavar="FILE",
        help="Binaries of bo-tune compile, which need no compiling here; may be repeated.",
        show_default=False,
        rich_help_panel=DEVICE,
    ),
]
Lease = Annotated[
    float,
    typer.Option(
        min=1.0,
        max=MOST_SECONDS,
        metavar="SECONDS",
        help="After so long without a word from a worker its studies go to others.",
        rich_help_panel=DATABASE,
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        metavar=FLAG,
        help="Measure anew: studies that are there are set aside. Run again after an interruption, it goes on.",
        rich_help_panel=DATABASE,
    ),
]
Storage = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help=f"Database of the studies; '{MEMORY}' keeps none.",
        rich_help_panel=DATABASE,
        autocompletion=completion.storages,
    ),
]
Budget = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Configs to launch in each study.", show_default=False, rich_help_panel=SEARCH
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**32 - 1,
        metavar="N",
        help="Of the samplers, and of replayed measurements.",
        show_default=False,
        rich_help_panel=SEARCH,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"How configs are proposed: {', '.join(SAMPLERS)}.",
        show_default=False,
        rich_help_panel=SEARCH,
        autocompletion=completion.samplers,
    ),
]
Stop = Annotated[
    bool | None,
    typer.Option(
        "--stop/--no-stop",
        metavar=FLAG,
        help="End a study once its model is sure that nothing much better is left; on unless the study file says no.",
        show_default=False,
        rich_help_panel=SEARCH,
    ),
]
Bundled = Annotated[
    bool,
    typer.Option(
        "--bundled/--no-bundled", metavar=FLAG, help="Learn from the bundled grids, too.", rich_help_panel=SEARCH
    ),
]
Recordings = Annotated[Path, typer.Option(metavar="DIR", help="Folder of recorded grids.", rich_help_panel=PROBLEM)]
ExportOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the exported studies.", rich_help_panel=OUTPUT)
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the JSON files.", rich_help_panel=OUTPUT)]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the result as JSON too; '-' writes it to stdout, and nothing else.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", metavar=FLAG, help="Print every recorded trial.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar=FLAG, help="Print nothing but what went wrong.", rich_help_panel=OUTPUT)
]
