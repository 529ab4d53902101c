"""``bo-tune step``: what adapters add to an engine's step."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.core.choices import DEFAULT_DEVICE, StreamChoice
from bo_tune.core.conditions import Conditions
from bo_tune.errors import InputError

if TYPE_CHECKING:
    from bo_tune.engines.models.serving import ModelStudy

TIMED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Numbers of tokens in a step to time if none are given."""


def step_command(
    *,
    study: o.Study = None,
    served: Served,
    tuned: Annotated[Path | None, o.option(o.PROBLEM, "DIR", "Folder of tuned JSON to time as well.")] = None,
    streams: Annotated[StreamChoice | None, o.streams_option("Default: both.")] = None,
    device: Annotated[str, o.option(o.DEVICE, "cuda[:N]", "The GPU that measures.")] = DEFAULT_DEVICE,
    kernels: o.KernelSource = "auto",
    require_idle: o.RequireIdle = False,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Time what adapters add to an engine's step: its decoder's linears, untuned and with a tuned folder.

    Examples:
      bo-tune step --model Llama-3.1-8B --max-loras 4 --rank 16 --tuned tuned
      bo-tune step studies/llama-3.1-8b.toml --tuned tuned
    """
    from bo_tune.analysis.step import Decoder, timed
    from bo_tune.cli.output import Output
    from bo_tune.display.step import step_lines, step_tables
    from bo_tune.session.workers.measuring import Measured, opened_one

    output = Output("step", json_file, quiet=quiet)
    model = _model(study, served)
    ways = (served.streams(streams) or StreamChoice.BOTH).ways
    decoders = [Decoder(replace(model, dual_stream=two), tuned) for two in ways]
    for decoder in decoders:
        decoder.check()
    measured = Measured(device, kernels, Conditions(), None, require_idle=require_idle)
    if measured.recordings is not None:
        raise InputError("--device: steps can only be timed on a GPU, not replayed")
    report = timed(decoders, lambda conditions: opened_one(replace(measured, conditions=conditions)))
    output.tables(*step_tables(report))
    output.lines(*step_lines(report))
    output.json(report.to_json())


def _model(study: Path | None, served: Served) -> "ModelStudy":
    """Return the model, as the command line or a study file has it served. Raises InputError."""
    from bo_tune.cli.arguments import study_of

    loaded = study_of(study, served) if study is not None else None
    if loaded is not None and loaded.model is None:
        raise InputError(
            f"{study}: bo-tune step needs a model, but this study file names its problems one by one; name a model "
            "with --model"
        )
    most = served.max_num_batched_tokens or (loaded.model.max_batched_tokens if loaded and loaded.model else None)
    ms = [m for m in TIMED if m <= (most or m)]
    if loaded is None or loaded.model is None:
        return served.study(ms)
    return loaded.model if served.m else replace(loaded.model, ms=tuple(ms))
