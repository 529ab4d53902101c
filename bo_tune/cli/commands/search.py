"""``bo-tune tune`` and ``bo-tune grid``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.core.choices import (
    DEFAULT_STORAGE,
    GRID,
    GRID_GP,
    LEASE_S,
    MoePathChoice,
    ProgressChoice,
    RaceChoice,
    StreamChoice,
)
from bo_tune.errors import InputError

if TYPE_CHECKING:
    from bo_tune.cli.arguments import Arguments
    from bo_tune.cli.output import Output
    from bo_tune.processes.fork_server import Imports

MoePath = Annotated[
    MoePathChoice,
    o.option(
        o.DEVICE,
        "|".join(MoePathChoice),
        "How the experts' adapters run, which decides on block_m. auto: as the engine would run them.",
    ),
]
Race = Annotated[
    RaceChoice,
    o.option(o.DEVICE, "|".join(RaceChoice), "Where the finalists race at the end: in the model's layers, or alone."),
]
Ray = Annotated[
    str | None,
    o.option(
        o.DEVICE, "ADDRESS", "Tune with workers on a Ray cluster, one on each GPU. 'local' starts a cluster here."
    ),
]
Workers = Annotated[
    int | None,
    o.option(
        o.DEVICE,
        "N",
        "Tuning processes. Default: one for each GPU with a pack, else one. With --ray: workers on the cluster.",
        min=1,
        max=o.MOST_PROCESSES,
    ),
]
Stop = Annotated[
    bool | None,
    o.flag(
        o.SEARCH,
        "End a study once its model is sure that nothing much better is left. Default: on, unless the study file "
        "turns it off.",
        "--stop/--no-stop",
    ),
]

DryRun = Annotated[
    bool, o.flag(o.OUTPUT, "List what would be tuned, like bo-tune problems, and tune nothing.", "--dry-run")
]

AUTO = "auto"
"""Value of ``--m`` that has keys added where they gain enough."""


def tune_command(
    *,
    study: o.Study = None,
    served: Served,
    streams: o.Streams = None,
    only: o.Only = None,
    kernel: o.Kernel = None,
    sampler: o.Sampler = None,
    budget: o.Budget = None,
    stop: Stop = None,
    bundled: o.Bundled = True,
    seed: o.Seed = None,
    measuring: o.Measuring,
    ray: Ray = None,
    workers: Workers = None,
    moe_path: MoePath = MoePathChoice.AUTO,
    race: Race = RaceChoice.IN_PLACE,
    storage: o.Storage = DEFAULT_STORAGE,
    fresh: o.Fresh = False,
    lease: o.Lease = LEASE_S,
    out: o.Out = Path("tuned"),
    dry_run: DryRun = False,
    json_file: o.JsonFile = None,
    progress: o.Progress = ProgressChoice.AUTO,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
) -> None:
    """Tune a study's kernels and write the JSON that vLLM loads.

    Examples:
      bo-tune tune --device replay:studies/recordings
      bo-tune tune studies/llama-3.1-8b.toml --out tuned
      bo-tune tune --model Llama-3.1-8B/config.json --tp 1 --max-loras 4 \\
          --rank 16 --m 1,16,256
    """
    from bo_tune.cli.start import importing_ahead

    here = not dry_run and ray is None and workers is None and streams is not StreamChoice.BOTH
    with importing_ahead(measuring.device, storage, anew=fresh, here=here) as imports:
        from bo_tune.cli.arguments import (
            Arguments,
            measured_of,
            measures_base_model,
            narrowed,
            settings_of,
            study_of,
            with_mix,
            with_streams,
        )
        from bo_tune.cli.commands.problems import list_problems
        from bo_tune.cli.output import Output
        from bo_tune.cli.served import absolute

        choose_m = served.m == [AUTO]
        whole = not choose_m and not only and measures_base_model(measuring)
        asked = narrowed(study_of(study, replace(served, m=None) if choose_m else served), only, whole=whole)
        loaded = with_streams(asked, served.streams(streams))
        if dry_run:
            list_problems(loaded, kernel or (), budget, Output("problems", json_file, quiet=quiet))
            return
        name = o.sampler_name(sampler or (loaded.sampler if loaded else GRID_GP))
        arguments = Arguments(
            loaded,
            kernel or (),
            measured_of(loaded, measuring, moe_path, mixed=True),
            storage,
            out,
            replace(settings_of(loaded, name, kernel or (), budget, seed, stop), bundled=bundled),
            verbose,
            choose_m=choose_m,
            fresh=fresh,
            lease_s=lease,
            ray=ray,
            workers=workers,
            race=race,
            named=[*([absolute(study)] if study else []), *served.words(streams)],
        )
        output = Output("tune", json_file, quiet=quiet, progress=progress)
        arguments = with_mix(arguments, measuring.active)
        if streams is StreamChoice.BOTH:
            from bo_tune.cli.both_streams import tune_both

            tune_both(arguments, output)
        else:
            _tune(arguments, output, imports)


def _tune(arguments: "Arguments", output: "Output", imports: "Imports | None") -> None:
    """Begin, and load meanwhile what the session needs."""
    from bo_tune.cli.start import begun

    with begun(arguments, imports) as start:
        from bo_tune.cli.tuning import tune

        tune(arguments, output, start)


def grid_command(
    *,
    study: o.Study = None,
    served: Served,
    only: o.Only = None,
    kernel: o.Kernel = None,
    budget: o.Budget = None,
    sampler: o.Sampler = None,
    seed: o.Seed = None,
    measuring: o.Measuring,
    moe_path: MoePath = MoePathChoice.AUTO,
    storage: o.Storage = DEFAULT_STORAGE,
    fresh: o.Fresh = False,
    lease: o.Lease = LEASE_S,
    out: o.Out = Path("grid"),
    record: Annotated[Path | None, o.option(o.OUTPUT, "DIR", "Also write one T4 recording of each problem.")] = None,
    json_file: o.JsonFile = None,
    progress: o.Progress = ProgressChoice.AUTO,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
) -> None:
    """Search exhaustively and write the same JSON. Tries every config, or the first --budget of them.

    Examples:
      bo-tune grid --device replay:studies/recordings --storage memory
      bo-tune grid studies/llama-3.1-8b.toml --kernel lora_shrink --record recordings
    """
    from bo_tune.cli.start import importing_ahead

    with importing_ahead(measuring.device, storage, anew=fresh) as imports:
        from bo_tune.cli.arguments import Arguments, measured_of, narrowed, settings_of, study_of
        from bo_tune.cli.output import Output

        if sampler not in (None, GRID):
            raise InputError(
                f"--sampler: an exhaustive search always uses {GRID!r}, got {sampler!r}; leave the option out"
            )
        loaded = narrowed(study_of(study, served), only, whole=False)
        arguments = Arguments(
            loaded,
            kernel or (),
            measured_of(loaded, measuring, moe_path),
            storage,
            out,
            settings_of(loaded, GRID, kernel or (), budget, seed),
            verbose,
            record,
            fresh=fresh,
            lease_s=lease,
        )
        _tune(arguments, Output("grid", json_file, quiet=quiet, progress=progress), imports)
