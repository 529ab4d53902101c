"""``bo-tune problems``: what would be tuned."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.errors import InputError

if TYPE_CHECKING:
    from bo_tune.cli.output import Output
    from bo_tune.core.problem import Problem
    from bo_tune.formats.study_file import StudyFile


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
    """List what would be tuned: layers, lookups, and the cost. Needs no GPU. tune --dry-run does the same.

    Examples:
      bo-tune problems studies/llama-3.1-8b.toml
      bo-tune problems --model Llama-3.1-8B/config.json --max-loras 4 --rank 16 --json -
    """
    from bo_tune.cli.arguments import narrowed, study_of, with_streams
    from bo_tune.cli.output import Output

    loaded = with_streams(narrowed(study_of(study, served), only, whole=True), served.streams(streams))
    list_problems(loaded, kernel or (), budget, Output("problems", json_file, quiet=quiet))


def list_problems(study: "StudyFile | None", kernels: Sequence[str], budget: int | None, output: "Output") -> None:
    """List the problems of a study with the layers that they serve, and what tuning them will cost.

    Args:
        kernels: problems of these alone; all where none is named.
        budget: configs that each study launches at most; None for what the study says.

    Raises:
        InputError: nothing is named, or there are no such problems.
    """
    from bo_tune.analysis.outlook import outlook
    from bo_tune.cli.arguments import DEFAULT_BUDGET, problems_of
    from bo_tune.display.check import problem_lines, problem_tables

    if study is None:
        raise InputError("there is nothing to list: name a study file, or a model with --model")
    served = study.problems_by_layer()
    problems = {problem: served[problem] for problem in problems_of(study, kernels)}
    expected = outlook(list(problems), budget or study.budget.launched_configs or DEFAULT_BUDGET)
    output.tables(*problem_tables(problems))
    output.lines(*problem_lines(problems, expected))
    if study.note:
        output.lines(f"note: {study.note}")
    output.json({"problems": [_figures(*item) for item in problems.items()], "expected": expected.to_json()})


def _figures(problem: "Problem", layers: Sequence[str]) -> Mapping[str, Any]:
    from bo_tune.core.problem import LoraProblem, SizedProblem

    if not isinstance(problem, LoraProblem):
        sizes = dict(problem.sizes) if isinstance(problem, SizedProblem) else {}
        return {"kernel": problem.kernel, "problem": problem.label, "sizes": sizes, "layers": list(layers)}
    sizes = {name: getattr(problem, name) for name in ("kernel", "max_loras", "num_slices", "m", "k", "n", "i")}
    return {**{name: size for name, size in sizes.items() if size is not None}, "layers": list(layers)}
