"""``bo-tune problems``: what would be tuned."""

from bo_tune.cli import options as o
from bo_tune.cli.served import Served


def problems_command(
    *,
    study: o.Study = None,
    served: Served,
    streams: o.Streams = None,
    only: o.Only = None,
    kernel: o.Kernel = None,
    budget: o.Budget = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """List what would be tuned, without a GPU: layers, lookups, and what it will cost. As tune --dry-run.

    Examples:
      bo-tune problems studies/llama-3.1-8b.toml
      bo-tune problems --model Llama-3.1-8B/config.json --max-loras 4 --rank 16 --json -
    """
    from bo_tune.cli.arguments import narrowed, study_of, with_streams
    from bo_tune.cli.output import Output
    from bo_tune.cli.problems import list_problems

    loaded = with_streams(narrowed(study_of(study, served), only, whole=True), served.streams(streams))
    list_problems(loaded, kernel or (), budget, Output("problems", json_file, quiet=quiet))
