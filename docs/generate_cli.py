"""Writes ``docs/cli.md`` from the command line itself: its help texts, options and exit codes.

``make docs`` runs it. A test compares the committed page with what this makes, another one the keys of JSON named here
with what commands write.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from bo_tune.cli.app import app
from bo_tune.display.running.json_lines import EVENTS, OF_STUDY, SCHEMA, STUDY_EVENTS
from bo_tune.processes import exit_codes

PAGE = Path(__file__).parent / "cli.md"

HEAD = """\
<!-- Made by docs/generate_cli.py from bo_tune/cli: edit there, then run `make docs`. -->

# Command line

`bo-tune --help` lists the commands. `bo-tune COMMAND --help` prints the same text as this page. `bo-tune --version`
shows the version. Input that cannot be used ends a command with one line on stderr.

## Exit codes

| code | |
|---|---|
"""

AFTER_CODES = """
## In a terminal

`tune`, `grid` and `worker` draw a live display: studies done and the time left, speed-up over the default so far, the
shares of time that GPU and compilers were busy, compiles waiting, the studies under way, and what happened last.
`sure` is the certificate so far: the probability that no untried config is better by more than 1 %. It appears with the
eighth config, and not at all with `--no-stop`. Narrow terminals get fewer columns, and low ones fewer rows.

![The live display](images/console.svg)

If the output is not a terminal, in a dumb terminal (`TERM=dumb`), or with `TTY_INTERACTIVE=0`, every event is a line of
its own. `NO_COLOR` removes the colours. `--quiet` prints only what went wrong.

Ctrl-C ends a session after the trials under way, and so do SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, and SIGHUP, but not
under `nohup`. The session then says what is kept, where, and which command resumes it. A password or another
secret in a database URL is shown as `***`. Whatever a command is doing, it ends within 5 s. If it cannot end in order,
for example because the database does not answer, it gives its leases back if it can, and exits with 130 all the same.

A run continues if nobody reads its output any more. After `| head -1`, on a full disk, or with stdout closed, it still
writes its files. At the end it says that stdout could not be written, with exit code 1.

## Events for programs

With `--progress json`, `tune` and `grid` write each event to stdout as a line of JSON, and nothing else goes there.
Warnings and errors go to stderr as always, and `--json FILE` has the result. Every line has `event` and `at`, in
seconds since 1970. Times are in us. This is schema SCHEMA. Later versions may add events and keys, but never change
the meaning of one.

```bash
bo-tune tune --device replay:studies/recordings --storage memory --progress json --json result.json
```

| event | keys |
|---|---|
EVENTS

## What is reused

A study belongs to one kernel and problem, GPU type, kernel source, toolchain (versions of Triton, ptxas and torch),
set of conditions (`--timing`, `--tokens`, …), sampler and seed. If one of these differs, it is another study, and is
measured. In the same study `tune` resumes from the existing trials. If an earlier run asked for the same (budget, stop
rule, finalists, ranges), it returns the existing result. It says how much was reused, how old that is, and which
search found it.

`--fresh` sets existing studies aside, and measures everything again. If it is interrupted, the same command resumes
with what it has measured itself. `show` lists what was set aside, and `delete` removes it. Studies from earlier
versions of bo_tune are shown with `toolchain unknown`. They teach others, but no search resumes them.

A study with values that bo_tune cannot have stored (a time below zero, say) is left out and named. `delete` removes it.

## Completion

`bo-tune --install-completion` installs completion for bash, zsh or fish: commands, options and values such as kernels,
samplers, study files, folders of recordings and databases. It takes effect in the next shell. `--show-completion`
prints the script.

## JSON

`--json FILE` writes what a command found as one JSON object. `--json -` writes it to stdout, and nothing else goes
there: progress and notes go to stderr. Every object has the keys `command` and `version` (of the program). Times are
in us (`_us`) or seconds (`_s`), and null if there is none. Later versions may add keys, but never change the meaning
of one. An interrupted command writes no JSON, except for `compile`, which keeps what it has. `tune --dry-run` writes
the document of `problems`. With `--streams both`, `tune` writes what it found on one stream, and adds `two_streams`
(the same for two) and `shrink` (the entries that serve both ways). With `--lookups`, if steps were recorded, it adds
`observed`: steps, at_keys and near_keys (shares of the time), default_us and tuned_us of a step.

| command | keys |
|---|---|
"""

JSON = {
    "problems": {
        "problems": "kernel, max_loras (the engine's option), num_slices, m, k, n, i (only for experts), layers",
        "expected": "studies; binaries and minutes (null where nobody measured them); basis (how they were estimated)",
    },
    "tune": {
        "studies": "study, kernel, problem, gpu, kernel_source, toolchain, search, exhaustive, set_aside, finished, "
        "best_us, default_us, config, certificate, costs, disturbed, ended, layers",
        "reused": "studies that had a result (kept) or trials before: study, kept, trials, measured_at, toolchain, "
        "asked",
        "unreadable": "studies of the database that were skipped, and why",
        "session": "wall_s, trials, launches, tuner_s, store_s, cpu_s, gpu_share, compiler_share, devices, …",
        "written": "paths of the files",
    },
    "grid": dict.fromkeys(["studies", "reused", "unreadable", "session", "written"], "as of `tune`"),
    "worker": {
        "studies": "study, kernel, problem, finished, best_us, default_us, message (why it could not be measured)",
        "trials": "recorded by this run",
    },
    "compile": {
        "gpu": "",
        "kernel_source": "",
        "binaries": "in the pack",
        "impossible": "configs that cannot be compiled, by reason",
        "compile_s": "seconds of one core",
        "cubin_bytes": "",
        "spilling": "binaries that spill registers",
        "compiled_now": "by this run",
        "elapsed_s": "",
        "written": "paths of the files",
        "interrupted": "",
    },
    "warm": {
        "gpu": "",
        "cache": "path of Triton's cache",
        "binaries": "that the engine needs",
        "there": "of these, those that were there before",
        "failed": "why others could not be compiled",
        "elapsed_s": "",
    },
    "simulate": {
        "runs": "recording, sampler, seed, launched_configs, launches, regret_percent, …",
        "summary": "by checkpoint: runs, mean_, median_ and p90_regret_percent, …",
    },
    "doctor": {
        "healthy": "whether no check failed",
        "checks": "check, status (ok, warning, failed, skipped), said, remedy",
    },
    "studies": {"items": "name, kind, about, files (that it needs)", "written": "paths of the files"},
    "folders": {
        "folders": "name, gpu, tensor_parallel, max_loras, ranks, m, files, entries, kernel_sources, toolchains, "
        "tuned_at, speed_up, expected_loss",
        "written": "paths of the files",
    },
    "step": {
        "model": "",
        "gpu": "",
        "layers": "decoder layers of the model",
        "tuned": "the folder",
        "lacking": "by streams (one, two): what keeps such an engine from using the folder",
        "steps": "m, streams, and of one decoder layer's linears bare_us, untuned_us, tuned_us, python_us",
    },
    "show": {
        "studies": "as of `tune`, and states, reasons, excluded, holder; of a single study result and trials too",
        "unreadable": "as of `tune`",
    },
    "report": {
        "gpus": "",
        "replayed": "whether recordings were tuned",
        "geomean_speed_up_over_default": "",
        "mean_regret_percent": "",
        "costs": "of the searches",
        "grid_costs": "of the exhaustive ones",
        "pruned": "trials by reason",
        "excluded": "configs left out before any trial, by reason",
        "left_out": "number of older studies that the page leaves out",
        "cases": "default_us, time_us, speed_up, saved_us, grid_best_us, regret_percent, steps, studies",
        "against": "with --against: storage, mean_ratio, only_here, only_there, problems; else null",
    },
    "check": {
        "folder": "",
        "gpu": "",
        "counts": "lookups by status: exact, nearest m, fault",
        "faults": "file, place, reason, m, layers",
        "lookups": "kernel, layers, file, asked, status, keys, fault",
        "kernels": "by file, how many entries were tuned with which kernel source",
    },
    "compare": {
        "entries": "file, keys, tuned, grid, tuned_us, grid_us, best_us, default_us, regret_percent, counted_in",
        "common_entries": "how many both folders have",
        "searches": "what tuned and grid are",
        "totals": "of tuned, grid and grid_over_tuned, for the common entries",
        "mean_regret_percent": "",
        "max_regret_percent": "",
        "geomean_speed_up_over_default": "",
    },
    "diff": {
        "a": "the folder",
        "b": "the other",
        "counts": "entries by status: same, changed, only in A, only in B",
        "entries": "file, keys, status, a and b (config, time_us, default_us, date, kernel_source), change_percent",
    },
    "export": {"studies": "study, file", "without_trials": "studies left out"},
    "import": {"studies": "study, trials_added, finished"},
    "write": {"written": "paths of the files", "entries": "how many", "not_ended": "studies without a result"},
    "merge": {"written": "paths of the files"},
    "delete": {"deleted": "study, trials"},
}
"""Keys of the document that each command writes, besides the two of all: what is in them."""


def page() -> str:
    """Return the whole page."""
    codes = [f"| {code} | {meaning} |" for code, meaning in exit_codes.MEANINGS.items()]
    keys = [f"| `{name}` | {'; '.join(_keys(entries))} |" for name, entries in JSON.items()]
    events = [f"| `{name}` | {'; '.join(_keys({**_of_study(name), **said}))} |" for name, said in EVENTS.items()]
    after_codes = AFTER_CODES.replace("schema SCHEMA", f"schema {SCHEMA}").replace("EVENTS", "\n".join(events))
    parts = [HEAD, "\n".join(codes), "\n", after_codes, "\n".join(keys), "\n"]
    return "".join([*parts, *(f"\n{text}" for text in map(_command, commands().values()))])


def _of_study(event: str) -> dict[str, str]:
    """Return the keys that tell which study an event is about."""
    return dict.fromkeys(OF_STUDY, "") if event in STUDY_EVENTS else {}


def commands() -> dict[str, Any]:
    """Return the commands by their names."""
    group: Any = typer.main.get_command(app)
    return {name: group.get_command(None, name) for name in group.list_commands(None)}


def examples(command: Any) -> list[str]:
    """Return the examples of a command, each in one line."""
    text = (command.epilog or "").partition("\n")[2]
    return [" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def _keys(entries: dict[str, str]) -> Iterator[str]:
    for key, meaning in entries.items():
        yield f"`{key}`" + (f" ({meaning})" if meaning else "")


def _command(command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(["bo-tune", command.name, *(_usage(argument) for argument in arguments), "[OPTIONS]"])
    lines = [f"## {command.name}", "", command.help, "", f"`{usage}`", ""]
    lines += ["```text", *(command.epilog or "").splitlines()[1:], "```", ""]
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        if parameter.name != "help":
            panel = "Argument" if parameter in arguments else parameter.rich_help_panel or "Options"
            panels.setdefault(panel, []).append(parameter)
    for panel, parameters in panels.items():
        lines += [f"| {panel} | |", "|---|---|"]
        lines += [f"| {_name(p)} | {_text(p)} |" for p in parameters]
        lines.append("")
    return "\n".join(lines)


def _usage(argument: Any) -> str:
    return argument.metavar if argument.required else f"[{argument.metavar}]"


def _name(parameter: Any) -> str:
    names = ["/".join([*parameter.opts, *parameter.secondary_opts])]
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`"
    return "`" + " ".join([*names, *([parameter.metavar] if parameter.metavar else [])]).replace("|", "\\|") + "`"


def _text(parameter: Any) -> str:
    default = parameter.default
    shown = default not in (None, False, True) and parameter.show_default
    return parameter.help + (f" Default: `{default}`." if shown else "")


if __name__ == "__main__":
    PAGE.write_text(page())
