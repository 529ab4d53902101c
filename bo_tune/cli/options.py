"""Options that several commands share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from bo_tune.errors import InputError
from bo_tune.sampler_names import SAMPLERS
from bo_tune.storage import DEFAULT_STORAGE, MEMORY


def integers(texts: Iterable[str] | None, option: str) -> list[int]:
    """Read an option that takes integers above 0, comma-separated, given once or several times.

    Raises:
        InputError: a value is something else.
    """
    words = [word.strip() for text in texts or () for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"{option}: expected integers above 0, comma-separated, got {','.join(words)!r}")
    return list(dict.fromkeys(int(word) for word in words))


def sampler_name(name: str) -> str:
    """Check a sampler's name. Raises InputError."""
    if name not in SAMPLERS:
        raise InputError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {name!r}")
    return name


Study = Annotated[Path | None, typer.Argument(metavar="[STUDY.toml]", help="Study file.", show_default=False)]
Model = Annotated[Path | None, typer.Option(help="Hugging Face config.json, or its folder, instead of a study file.")]
TensorParallel = Annotated[
    int | None, typer.Option("--tp", min=1, help="Tensor-parallel size of the served model: 1.", show_default=False)
]
MaxLoras = Annotated[
    list[str] | None, typer.Option(metavar="N,…", help="The engine's --max-loras.", show_default=False)
]
Rank = Annotated[
    list[str] | None, typer.Option(metavar="N,…", help="The engine's --max-lora-rank.", show_default=False)
]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        "--m", metavar="N,…", help="Tokens in a step. Decode and prefill sizes by default.", show_default=False
    ),
]
Kernel = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Only this kernel; may be repeated.", show_default=False)
]
DeviceName = Annotated[
    str, typer.Option("--device", metavar="cuda[:N]|replay:DIR", help="What measures: a GPU, or recorded grids.")
]
Storage = Annotated[str, typer.Option(metavar="URL", help=f"Database of the studies; '{MEMORY}' keeps none.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the JSON files.")]
Budget = Annotated[int | None, typer.Option(min=1, help="Configs to launch in each study.", show_default=False)]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Of the samplers, and of replayed measurements.", show_default=False)
]
Sampler = Annotated[
    str | None, typer.Option(metavar="|".join(SAMPLERS), help="How configs are proposed.", show_default=False)
]
Stop = Annotated[
    bool | None,
    typer.Option(
        "--stop/--no-stop",
        help="End a study once its model is sure that nothing much better is left; on unless the study file says no.",
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Compile processes; two less than the cores by default.", show_default=False)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every recorded trial.")]
Recordings = Annotated[Path, typer.Option(metavar="DIR", help="Folder of recorded grids.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON too.")]

DEFAULT_DEVICE = "cuda"

__all__ = ["DEFAULT_DEVICE", "DEFAULT_STORAGE"]
