"""``bo-tune doctor``: whether this host is fit to tune."""

from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.core.choices import DEFAULT_DEVICE, DEFAULT_STORAGE
from bo_tune.processes import exit_codes

WAIT_S = 20.0


def doctor_command(
    *,
    device: Annotated[str, o.option(o.DEVICE, "cuda[:N]", "The GPU that will measure.")] = DEFAULT_DEVICE,
    kernels: o.KernelSource = "auto",
    storage: o.Storage = DEFAULT_STORAGE,
    wait: Annotated[
        float,
        o.option(
            o.DEVICE,
            "SECONDS",
            "Time after which a check that has not answered counts as hanging.",
            min=1.0,
            max=3600.0,
        ),
    ] = WAIT_S,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Check whether this host is fit to tune, and say how to fix what is not. Exit code 1 if a check failed.

    It compiles a kernel and launches it on the GPU. The command ends even if the driver or the GPU hangs.

    Examples:
      bo-tune doctor
      bo-tune doctor --device cuda:1 --kernels vllm --storage postgresql+psycopg://tuner@db/studies
    """
    from bo_tune.analysis.doctor import Status, Wanted, examined
    from bo_tune.cli.output import Output
    from bo_tune.display.doctor import finding_lines, summary_line
    from bo_tune.measure.backends.registry import gpu_named

    output = Output("doctor", json_file, quiet=quiet)
    findings = examined(Wanted(gpu_named(device, "--device"), o.kernel_choice(kernels), storage, wait))
    bad = [finding for finding in findings if finding.status is Status.FAILED]
    if quiet:
        output.say(*finding_lines(bad))
    output.lines(*finding_lines(findings), summary_line(findings))
    output.json({"healthy": not bad, "checks": [finding.to_json() for finding in findings]})
    if bad:
        raise typer.Exit(exit_codes.FAILED)
