"""Judges the answers of driver, toolchain and database."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bo_tune.analysis.doctor.finding import Finding, failed, ok, skipped, warning
from bo_tune.measure.backends.base import Backend
from bo_tune.measure.examined.asking import Asked
from bo_tune.store.connection.url import shown

Answers = Mapping[str, Any]

LONGER = "--wait allows more time"

_RELEASE = re.compile(r"\d+\.\d+(\.\d+)*")

GPU_EXTRA = "pip install 'bo_tune[gpu]'"


def driver(vendor: Backend, number: int, told: Answers, asked: Asked, environment: Answers) -> Iterator[Finding]:
    """Judge the driver, the usable GPUs, and how others use the GPU that will measure."""
    yield _release(vendor, told, asked)
    yield from _gpus(vendor, number, told, asked, environment)
    if number >= told.get("usable", 0):
        yield skipped("idle", "there is no GPU to check")
        return
    yield from _idle(vendor, told, asked)


def _release(vendor: Backend, told: Answers, asked: Asked) -> Finding:
    if "driver" not in told:
        return _unanswered("driver", f"{vendor.vendor}'s driver", asked)
    release = told["driver"]
    if release is None:
        return failed("driver", f"no {vendor.vendor} driver was found", vendor.driver_help)
    found = _RELEASE.search(release)
    return ok("driver", f"{vendor.vendor} {found[0] if found else release}")


def _unanswered(check: str, what: str, asked: Asked) -> Finding:
    """Report that something did not answer, because it has hung or died."""
    if asked.hung:
        return failed(check, f"{what} did not answer", f"{LONGER}; if it never answers, restart the host")
    return failed(check, f"{what} could not be queried: {asked.fault}", "follow that message")


def _gpus(vendor: Backend, number: int, told: Answers, asked: Asked, environment: Answers) -> Iterator[Finding]:
    """Judge which GPUs exist, which of them may be used, and whether they are partitioned."""
    set_to = {name: environment[name] for name in vendor.visibility if name in environment}
    limits = ", ".join(f"{name}={value}" for name, value in set_to.items())
    fitted, usable = told.get("fitted", []), told.get("usable")
    names = ", ".join(f"{name}{' (partitioned)' * partitioned}" for name, partitioned in fitted)
    if "uncounted" in told:
        yield failed("GPUs", told["uncounted"], vendor.driver_help)
    elif usable is None:
        yield _unanswered("GPUs", f"{vendor.vendor}'s driver, when asked for its GPUs,", asked)
    elif number < usable:
        there = f"{usable} can be used" + (f"; the host has {names}" if names else "")
        yield ok("GPUs", there + (f"; {limits}" if limits else ""))
    elif usable:
        given = f"but --device names {vendor.name}:{number}"
        last = f"{vendor.name}:{usable - 1}" if usable > 1 else ""
        yield failed(
            "GPUs",
            f"{usable} can be used, {given}",
            f"choose one with --device {vendor.name}:0{f' to {last}' * bool(last)}",
        )
    else:
        said = f"none of {names} can be used" if fitted else f"no {vendor.vendor} GPU was found"
        limited = f"; {limits}" if limits else ""
        yield failed("GPUs", said + limited, _to_have_one(vendor, told, set_to))


def _to_have_one(vendor: Backend, told: Answers, set_to: Answers) -> str:
    """Say what to do if no GPU may be used."""
    fitted = told.get("fitted", [])
    if any(partitioned for _, partitioned in fitted):
        return vendor.partition_help
    if fitted and set_to:
        return f"unset {', '.join(set_to)}, or set it to a GPU"
    replayed = "to replay recorded grids without one, use --device replay:DIR"
    return replayed if told.get("driver") is None else f"{vendor.driver_help}; {replayed}"


def _idle(vendor: Backend, told: Answers, asked: Asked) -> Iterator[Finding]:
    """Judge how others use the GPU."""
    if "unwatched" in told:
        yield warning("idle", f"unknown: {told['unwatched']}", "make sure that nobody else uses the GPU")
    elif "busy" not in told:
        yield _unanswered("idle", f"{vendor.vendor}'s driver, when asked who uses the GPU,", asked)
    elif told["busy"] is not None:
        what = f"wait for them, end them ({vendor.processes_help} lists them), or choose another GPU with --device"
        yield failed("idle", told["busy"], what)
    else:
        yield ok("idle", "nobody else uses it")
    if told.get("blind_spot"):
        yield warning("watch", told["blind_spot"], "make sure that nobody else uses the GPU meanwhile")


def toolchain(vendor: Backend, told: Answers, asked: Asked) -> Iterator[Finding]:
    """Judge torch, Triton, and whether a kernel could be compiled and launched."""
    for package in ("torch", "triton"):
        fault = told.get(f"{package}_fault")
        if package in told:
            yield ok(package, told[package])
        elif fault is not None:
            missing = fault.startswith("ModuleNotFoundError")
            how = GPU_EXTRA if missing else f"reinstall it: {GPU_EXTRA}"
            yield failed(package, "is not installed" if missing else f"cannot be imported: {fault}", how)
        elif any(f"{other}_fault" in told for other in ("torch", "triton")):
            yield skipped(package, "was not imported")
        else:
            yield failed(
                package, _ended(asked, "its import"), f"{LONGER}; a slow disk may need a minute the first time"
            )
    yield _launch(vendor, told, asked)


def _ended(asked: Asked, what: str) -> str:
    return f"{what} did not finish" if asked.hung else f"{what} killed its process: {asked.fault}"


def _launch(vendor: Backend, told: Answers, asked: Asked) -> Finding:
    """Judge the trial kernel."""
    check, gpu = "trial kernel", told.get("gpu")
    if told.get("refusal"):
        return failed(check, told["refusal"], f"install a torch for {vendor.vendor} GPUs, as pytorch.org says")
    if "launch_fault" in told:
        return failed(check, told["launch_fault"], "fix what failed above, or follow that message")
    if "launched" in told and gpu is not None:
        made = f"compiled for {gpu['target']} and launched on {gpu['name']} in {told['seconds']:.1f} s"
        rest = f"assembler {told['assembler']}, {gpu['free_bytes'] / 2**30:.0f} GiB of memory free"
        if told["launched"]:
            return ok(check, f"{made}; {rest}")
        return failed(check, f"{made}, with a wrong result; {rest}", "try another release of Triton or of the driver")
    if "refusal" in told:
        return failed(check, _ended(asked, "compiling and launching it"), f"{LONGER}; otherwise restart the host")
    return skipped(check, "it needs a GPU, torch and Triton")


def database(url: str, told: Answers, asked: Asked) -> Finding:
    """Judge the database of studies."""
    check = "database"
    if "fault" in told:
        return failed(check, told["fault"], "choose another database with --storage, or fix this one")
    if "studies" not in told:
        said = _ended(asked, f"opening {shown(url)}")
        return failed(check, said, f"check that its server runs and that this host can reach it; {LONGER}")
    if told["studies"] is None:
        return ok(check, f"{shown(url)}: there is none yet; bo-tune tune creates it")
    return ok(check, f"{shown(url)}: {told['studies']} studies")
