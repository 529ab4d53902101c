"""A folder of tuned JSON and the engine that it is checked for: what ``check`` and ``warm`` ask for, and the report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bo_tune.cli import options as o
from bo_tune.cli import served as shared
from bo_tune.core.choices import EngineChoice
from bo_tune.errors import InputError

if TYPE_CHECKING:
    from bo_tune.engines.check import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(shared.Served):
    """A model and the engine that serves it."""

    m: Annotated[list[str] | None, o.option(o.PROBLEM, "N,…", "Tokens in a step. Default: all sizes.")] = None


GpuOfFolder = Annotated[
    str | None,
    o.option(
        o.PROBLEM,
        "NAME",
        "The GPU's name, as torch.cuda.get_device_name gives it. Default: the one in the names of the files.",
    ),
]


def report_of(folder: Path, study: Path | None, served: Served, gpu: str | None) -> "Report":
    """Check the folder for whatever was named: what an engine looked up, a study file, or a model."""
    from bo_tune.cli.arguments import observed_of, study_of
    from bo_tune.engines.check import check_folder, check_problems
    from bo_tune.engines.check.csgmv import check_csgmv

    if served.lookups is not None:
        if served.m:
            raise InputError("--m does not work with --lookups, because the lookups have their own m")
        observed = observed_of(study, served)
        return check_problems(folder, observed.lookups_by_layer(), gpu=gpu or observed.observed.gpu, note=observed.note)
    loaded = study_of(study, served) if study else None
    named = check_problems(folder, loaded.explicit, gpu=gpu) if loaded and loaded.explicit else None
    model = loaded.model if loaded else served.study((1,))
    if model is None:
        return named or check_problems(folder, {}, gpu=gpu)
    sizes = o.integers(served.m, "--m")
    if model.engine is EngineChoice.SGLANG:
        return check_csgmv(folder, model, gpu=gpu, ms=sizes)
    report = check_folder(folder, model, gpu=gpu, ms=sizes, max_batched_tokens=model.most_tokens)
    return replace(report, lookups=(*report.lookups, *named.lookups)) if named else report
