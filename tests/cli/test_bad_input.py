"""Every bad input: one line on stderr that names the place, exit code 2, and every file as it was."""

import gzip
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    EXPAND,
    ONE_PROBLEM,
    ROOT,
    SHRINK,
    SHRINK_TABLE,
    Cli,
    contents,
    run_command,
    sliced,
    sqlite_url,
    stored_trials,
    write_all,
)

from bo_tune.formats.recording import recording_file_name

MODEL = ROOT / "studies" / "models" / "llama-3.1-8b" / "config.json"
ADAPTER = {"r": 16, "lora_alpha": 16, "target_modules": ["q_proj"]}
RECORDED = recording_file_name(sliced(SHRINK).gpu, sliced(SHRINK).problem)


class Inputs:
    """A folder with a good study file, recordings and a database, for a case to spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study, self.out, self.database = folder / "study.toml", folder / "out", folder / "x.db"
        self.recordings = write_all(folder / "recordings", sliced(SHRINK), sliced(EXPAND))
        self.study.write_text(ONE_PROBLEM)

    def tune(self, *more: object, study: bool = True) -> list[object]:
        named = [self.study] if study else []
        device = ["--device", f"replay:{self.recordings}"]
        return ["tune", *named, *device, "--storage", "memory", "--out", self.out, "--budget", 2, *more]

    def with_study(self, text: str) -> list[object]:
        self.study.write_text(text)
        return self.tune()

    def with_recording(self, change: Callable[[dict[str, Any]], object]) -> list[object]:
        path = self.recordings / RECORDED
        document = json.loads(gzip.decompress(path.read_bytes()))
        change(document)
        path.write_bytes(gzip.compress(json.dumps(document).encode()))
        return self.tune(study=False)

    def with_bytes(self, change: Callable[[bytes], bytes]) -> list[object]:
        path = self.recordings / RECORDED
        path.write_bytes(change(path.read_bytes()))
        return self.tune(study=False)

    def with_model(self, change: Callable[[dict[str, Any]], object]) -> list[object]:
        config = json.loads(MODEL.read_text())
        change(config)
        (self.folder / "config.json").write_text(json.dumps(config))
        options = ("--model", self.folder / "config.json", "--max-loras", 4, "--rank", 16, "--m", 16)
        return self.tune(*options, study=False)

    def served(self, *more: object, config: object = MODEL) -> list[object]:
        return self.tune("--model", config, "--max-loras", 4, "--rank", 16, "--m", 16, *more, study=False)

    def with_adapter(self, **fields: object) -> list[object]:
        (self.folder / "adapter_config.json").write_text(json.dumps({**ADAPTER, **fields}))
        return self.served("--adapter", self.folder)

    def with_table(self, name: str, content: str) -> list[object]:
        self.out.mkdir()
        (self.out / name).write_text(content)
        return self.tune()

    def with_database(self, *statements: str) -> list[object]:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        return self.tune("--storage", sqlite_url(self.database))


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    (tmp_path / "inputs").mkdir()
    return Inputs(tmp_path / "inputs")


@pytest.fixture
def used(inputs: Inputs, cli: Cli) -> Inputs:
    """The same, with a database that was used before."""
    assert cli(*inputs.tune("--storage", sqlite_url(inputs.database))).code == 0
    shutil.rmtree(inputs.out)
    return inputs


Case = tuple[Callable[[Inputs], list[object]], str]

STUDY_FILES: dict[str, Case] = {
    "unknown key": (lambda i: i.with_study(ONE_PROBLEM + "block_m = 16"), r"study\.toml: .*block_m"),
    "unknown table": (lambda i: i.with_study(ONE_PROBLEM + "[budgets]\n"), "budgets"),
    "wrong type": (lambda i: i.with_study(ONE_PROBLEM.replace("= 16", '= "sixteen"')), "expected an integer"),
    "unknown kernel": (lambda i: i.with_study(ONE_PROBLEM.replace("lora_shrink", "lora_shrunk")), "lora_shrunk"),
    "empty range": (lambda i: i.with_study(ONE_PROBLEM + "[space.lora_shrink]\nblock_m = []"), "block_m"),
    "no power of two": (lambda i: i.with_study(ONE_PROBLEM + "[space.lora_shrink]\nblock_m = [16, 48]"), "power"),
    "billions of slices": (
        lambda i: i.with_study(ONE_PROBLEM.replace("slices = 1", "slices = 2000000000")),
        "at most 16",
    ),
    "millions of configs": (
        lambda i: i.with_study(ONE_PROBLEM + f"[space.lora_shrink]\nnum_stages = {[*range(1, 2000)]}"),
        r"space\.lora_shrink: expected a search space of at most 200,000 configs, got [\d,]+ ",
    ),
    "a text of 100,000 characters": (lambda i: i.with_study(ONE_PROBLEM + f"x{'x' * 10**5} = 1"), "study.toml: …$"),
    "unknown parameter": (lambda i: i.with_study(ONE_PROBLEM + "[space.lora_shrink]\nblock_x = [16]"), "block_x"),
    "no TOML": (lambda i: i.with_study("[[problem"), "TOML"),
    "no such file": (lambda i: i.tune(i.folder / "none.toml", study=False), "none.toml: No such file"),
    "a folder": (lambda i: i.tune(i.folder, study=False), "directory"),
    "a problem that is not recorded": (
        lambda i: i.with_study(ONE_PROBLEM.replace("m = 16", "m = 17")),
        "have no recording",
    ),
}
MODELS: dict[str, Case] = {
    "missing field": (lambda i: i.with_model(lambda c: c.pop("hidden_size")), "hidden_size"),
    "missing heads": (lambda i: i.with_model(lambda c: c.pop("num_attention_heads")), "num_attention_heads"),
    "field of a wrong type": (lambda i: i.with_model(lambda c: c.update(hidden_size="4096")), "hidden_size"),
    "no model": (lambda i: i.tune("--model", i.folder / "none", "--rank", 16, "--max-loras", 4, study=False), "none"),
    "a model for a study of problems": (lambda i: i.tune("--model", MODEL), "--model: .*study.toml names its problems"),
    "no rank": (lambda i: i.tune("--model", MODEL, "--max-loras", 4, study=False), "--max-lora-rank is needed"),
    "no max_loras": (lambda i: i.tune("--model", MODEL, "--rank", 16, study=False), "--max-loras is needed"),
    "neither a file nor an id": (lambda i: i.served(config="no/such/model"), "no/such/model: No such file"),
    "a vocabulary too large for lm_head": (lambda i: i.with_model(lambda c: c.update(vocab_size=300000)), "vocab_size"),
    "no architectures": (lambda i: i.with_model(lambda c: c.pop("architectures")), "architectures: expected the list"),
    "a model without adapters": (
        lambda i: i.with_model(lambda c: c.update(architectures=["KimiK25ForConditionalGeneration"])), "it is not "
        "SupportsLoRA"
    ),
    "a rank that no engine takes": (lambda i: i.served("--rank", 17), "one of 1, 8, .*, got 17; the next larger one "
    "is 32"),
    "an unknown target module": (lambda i: i.served("--target-modules", "q_porj"), "did you mean q_proj"),
    "a rank that cannot be shared": (lambda i: i.served("--fully-sharded", "--tp", 32), "a multiple of .* 32, got 16"),
    "no adapter": (lambda i: i.served("--adapter", i.folder / "none"), "none: No such file"),
    "a malformed adapter": (lambda i: i.served("--adapter", i.study), "study.toml: not JSON"),
    "an adapter without rank": (lambda i: i.with_adapter(r=None), "r: expected an integer"),
    "an adapter that vLLM refuses": (lambda i: i.with_adapter(use_dora=True), "use_dora: vLLM does not support DoRA"),
    "an adapter of a larger rank": (lambda i: i.with_adapter(r=17), "at most 16, the rank that is served, got 17"),
    "an adapter with a broken pattern": (lambda i: i.with_adapter(target_modules="("), "expected a regular expression"),
    "an adapter for a study of problems": (lambda i: i.tune("--adapter", i.folder), "--adapter: .*one by one"),
    "shards without a model": (lambda i: i.tune("--fully-sharded", study=False), "--fully-sharded-loras needs a model"),
    "more tokens than a step has": (
        lambda i: i.served("--max-num-batched-tokens", 8), "m: expected at most 8, the tokens of --max-num-batched-tok"
    ),
    "millions of drafted tokens": (lambda i: i.served("--num-speculative-tokens", 10**6), "--num-speculative-tokens"),
    "a sharding that does not divide": (
        lambda i: i.tune("--model", MODEL, "--rank", 16, "--max-loras", 4, "--tp", 7, study=False), "7"
    ),
}  # fmt: skip
OPTIONS: dict[str, Case] = {
    "device": (lambda i: i.tune("--device", "cpu"), "--device: expected"),
    "device without folder": (lambda i: i.tune("--device", "replay:"), "--device: expected"),
    "device index": (lambda i: i.tune("--device", "cuda:x"), "--device: expected"),
    "device folder": (lambda i: i.tune("--device", "replay:/none"), "/none"),
    "empty device folder": (lambda i: i.tune("--device", f"replay:{i.out.parent}"), "no recordings"),
    "sampler": (lambda i: i.tune("--sampler", "magic"), "--sampler: expected one of .*'magic'"),
    "sampler of a grid": (lambda i: ["grid", *i.tune("--sampler", "random")[1:]], "--sampler"),
    "kernel": (lambda i: i.tune("--kernel", "magic"), "unknown kernel 'magic'"),
    "kernel of no problem": (lambda i: i.tune("--kernel", "lora_expand"), "--kernel: this study has no problem"),
    "m of explicit problems": (lambda i: i.tune("--m", "32"), "--m"),
    "m without a study": (lambda i: i.tune("--m", "32", study=False), "--m"),
    "m to choose on recordings": (lambda i: i.tune("--m", "auto", study=False), "--m auto needs a GPU"),
    "m to choose and more": (lambda i: i.served("--m", "auto"), "--m: expected integers"),
    "m to choose of a grid": (lambda i: ["grid", *i.served("--m", "auto")[1:]], "--m: expected integers"),
    "nothing to tune": (lambda i: ["tune"], "nothing to tune"),
    "simulate's sampler": (lambda i: ["simulate", "--recordings", i.recordings, "--sampler", "x"], "--sampler"),
    "simulate's recordings": (lambda i: ["simulate", "--recordings", i.folder / "none"], "none"),
    "simulate's history": (lambda i: ["simulate", "--recordings", i.recordings, "--history", "/none"], "/none"),
    "compare's folder": (lambda i: ["compare", i.folder / "none", i.folder], "none"),
    "compare's empty folder": (lambda i: ["compare", i.folder, i.folder], "no tuned JSON"),
    "show of nothing": (lambda i: ["show", "--storage", sqlite_url(i.database)], "no such database"),
    **{
        f"m {value!r}": (
            lambda i, value=value: i.tune(
                "--model", MODEL, "--rank", 16, "--max-loras", 4, "--m", value, study=False
            ),
            "--m: expected integers",
        )
        for value in ("0", "-1", "x", "1.5", "16,", "16,,32")
    },
}  # fmt: skip
RECORDINGS: dict[str, Case] = {
    "truncated": (lambda i: i.with_bytes(lambda content: content[: len(content) // 2]), "truncated"),
    "damaged": (lambda i: i.with_bytes(lambda content: b"x" + content), "damaged"),
    "cut JSON": (lambda i: i.with_bytes(lambda c: gzip.compress(gzip.decompress(c)[:-200])), "not JSON"),
    "of another kernel": (
        lambda i: i.with_recording(lambda d: d["metadata"].update(kernel="matmul")), "a recording of the kernel matmul"
    ),
    "of a GPU whose name is a path": (
        lambda i: i.with_recording(lambda d: d["metadata"].update(gpu="../../x")),
        r'json.gz: metadata.gpu: expected the name of a GPU, got "../../x", which leads to another folder$',
    ),
    "of a GPU whose name is an absolute path": (
        lambda i: i.with_recording(lambda d: d["metadata"].update(gpu=str(i.folder / "x"))),
        "which leads to another folder$",
    ),
    "without results": (lambda i: i.with_recording(lambda d: d.update(results=[])), "results"),
    "without times": (lambda i: i.with_recording(lambda d: d["results"][0].update(times={})), r"results\[0\]"),
}  # fmt: skip
OUTPUTS: dict[str, Case] = {
    "no folder can be made": (lambda i: i.tune("--out", "/proc/tuned"), "/proc/tuned: cannot be written"),
    "a read-only folder": (lambda i: i.tune("--out", "/proc"), "/proc: cannot be written"),
    "a file": (lambda i: i.tune("--out", i.study), "is a file"),
    "record to nowhere": (lambda i: ["grid", *i.tune("--record", "/proc/r")[1:]], "/proc/r"),
    "malformed": (lambda i: i.with_table(SHRINK_TABLE, '{"5": {"1": '), f"{SHRINK_TABLE}: not JSON"),
    "empty": (lambda i: i.with_table(SHRINK_TABLE, ""), f"{SHRINK_TABLE}: not JSON"),
    "of other levels": (lambda i: i.with_table(SHRINK_TABLE, '{"5": {"1": {"16": 3}}}'), SHRINK_TABLE),
    "a repeated key": (lambda i: i.with_table(SHRINK_TABLE, '{"5": {}, "5": {}}'), "twice"),
    "a malformed sidecar": (
        lambda i: i.with_table(SHRINK_TABLE.replace(".json", ".provenance.json"), "[]"), "provenance.json"
    ),
    "simulate's file": (
        lambda i: ["simulate", "--recordings", i.recordings, "--budget", 2, "--sampler", "random", "--json", "/proc/x"],
        "/proc/x: cannot be written",
    ),
}  # fmt: skip
DATABASES: dict[str, Case] = {
    "of another program": (lambda i: i.with_database("CREATE TABLE songs (title TEXT)"), "something else"),
    "text": (lambda i: i.tune("--storage", sqlite_url(i.study)), "not a database"),
    "no URL": (lambda i: i.tune("--storage", i.database), "expected a database URL"),
    "no such kind": (lambda i: i.tune("--storage", "nonsense:///x"), "nonsense"),
    "a kind that is not supported": (
        lambda i: i.tune("--storage", "mysql+pymysql://tuner@db/x"),
        "expected a SQLite or PostgreSQL database",
    ),
    "no such folder": (lambda i: i.tune("--storage", "sqlite:////none/x.db"), "/none does not exist"),
    "no driver": (lambda i: i.tune("--storage", "postgresql://u@localhost/x"), "postgresql"),
}
USED_DATABASES: dict[str, Case] = {
    "of another Optuna": (
        lambda i: i.with_database("UPDATE alembic_version SET version_num = 'v9.9.0.a'"), "(?i)optuna"
    ),
    "of an older Optuna": (
        lambda i: i.with_database("UPDATE alembic_version SET version_num = 'v2.6.0.a'"), "(?i)optuna"
    ),
    "of another schema of ours": (
        lambda i: i.with_database("UPDATE study_user_attributes SET value_json = '99' WHERE key = 'bo_tune:schema'"),
        "schema 99",
    ),
}  # fmt: skip
ALL = {
    f"{group}: {name}": case
    for group, cases in {
        "study file": STUDY_FILES, "model": MODELS, "option": OPTIONS, "recording": RECORDINGS, "output": OUTPUTS,
        "database": DATABASES,
    }.items()
    for name, case in cases.items()
}  # fmt: skip


def refused(cli: Cli, inputs: Inputs, case: Case) -> None:
    """Run a case; its files must be as they were, and no new one may appear."""
    arguments = case[0](inputs)
    before, here = contents(inputs.folder), contents(Path.cwd())
    error = cli(*arguments).error
    assert re.search(case[1], error), error
    after = {name: content for name, content in contents(inputs.folder).items() if not name.endswith(("-shm", "-wal"))}
    assert after == before
    assert contents(Path.cwd()) == here


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_one_line_and_exit_code_2(cli: Cli, inputs: Inputs, name: str) -> None:
    refused(cli, inputs, ALL[name])


@pytest.mark.parametrize("name", USED_DATABASES)
def test_a_database_of_another_schema_is_refused(cli: Cli, used: Inputs, name: str) -> None:
    make, expected = USED_DATABASES[name]
    arguments = make(used)
    with closing(sqlite3.connect(used.database)) as connection:
        before = list(connection.iterdump())
    error = cli(*arguments).error
    assert re.search(expected, error), error
    with closing(sqlite3.connect(used.database)) as connection:
        assert list(connection.iterdump()) == before
    assert not list(used.out.glob("*.json"))


@pytest.mark.parametrize("name", ["option: device", "study file: unknown key", "output: malformed"])
def test_bad_input_leaves_no_new_database(cli: Cli, inputs: Inputs, name: str) -> None:
    arguments = ALL[name][0](inputs)
    assert cli(*arguments, "--storage", sqlite_url(inputs.database)).error
    assert not inputs.database.exists()


@pytest.mark.parametrize(
    "arguments", ["tune --budget 0", "tune --budget x", "tune --no-such-option", "tune --tp 0", "nonsense"]
)
def test_what_the_command_line_itself_refuses_is_exit_code_2(cli: Cli, arguments: str) -> None:
    ran = cli(*arguments.split())
    assert ran.code == 2
    assert ran.err
    assert "Traceback" not in ran.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow
def test_no_gpu_and_no_device(inputs: Inputs) -> None:
    ran = run_command("tune", inputs.study, "--out", inputs.out, cwd=inputs.folder)
    assert re.search(r"CUDA device 0 cannot be used: .*--device replay:DIR", ran.error), ran.error
    assert not (inputs.folder / "bo_tune.db").exists()


# Disks that are full


def limited(size: int) -> Callable[[], None]:
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_no_room_for_any_file(inputs: Inputs) -> None:
    inputs.with_table(SHRINK_TABLE, '{"2": {"1": {"8": {"512": {"16": {"block_m": 16}}}}}}')
    before = contents(inputs.folder)
    ran = run_command(*inputs.tune(), cwd=inputs.folder, preexec_fn=limited(1000))
    assert "cannot be written" in ran.error
    assert contents(inputs.folder) == before


@pytest.mark.slow
def test_no_room_for_the_json_at_the_end(inputs: Inputs) -> None:
    """The room was there when it was checked; the database keeps what was found."""
    inputs.with_table(SHRINK_TABLE, '{"2": {"1": {"8": {"512": {"16": {"block_m": 16}}}}}}')
    (inputs.out / "filler.provenance.json").touch()
    before = contents(inputs.out)
    tables = inputs.out / SHRINK_TABLE
    sidecar = tables.with_name(SHRINK_TABLE.replace(".json", ".provenance.json"))
    kept = {f"2/1/8/512/{n}": {"padding": "x" * 1000} for n in range(10)}
    sidecar.write_text(json.dumps({"schema_version": 1, "entries": kept}))
    before = contents(inputs.out)
    ran = run_command(*inputs.tune(), cwd=inputs.folder, preexec_fn=limited(8000))
    assert "cannot be written" in ran.error
    after = {name: content for name, content in contents(inputs.out).items() if not name.endswith(".lock")}
    assert after == before


@pytest.mark.slow
def test_no_room_for_the_database(inputs: Inputs) -> None:
    options = ("--storage", sqlite_url(inputs.database), "--budget", 200, "--sampler", "random", "--verbose")
    ran = run_command(*inputs.tune(*options, study=False), cwd=inputs.folder, preexec_fn=limited(300_000))
    assert "the database reported an error" in ran.error
    told = ran.out.count("\nrecorded ")
    stored = sum(map(len, stored_trials(inputs.database).values()))
    assert 0 < told <= stored
    again = run_command(*inputs.tune(*options, study=False), cwd=inputs.folder)
    assert again.code == 0
    more = again.out.count("\nrecorded ")
    assert more > 0
    assert stored + more == sum(map(len, stored_trials(inputs.database).values()))


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where one may be mounted."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system(cli: Cli, inputs: Inputs, tiny: Path) -> None:
    (tiny / SHRINK_TABLE).write_text('{"2": {"1": {"8": {"512": {"16": {"block_m": 16}}}}}}')
    with pytest.raises(OSError, match="No space"):
        (tiny / "filler").write_bytes(b"x" * 100_000)
    before = contents(tiny)
    assert "No space left on device" in cli(*inputs.tune("--out", tiny)).error
    assert contents(tiny) == before


def test_a_read_only_file_system(cli: Cli, inputs: Inputs, tiny: Path) -> None:
    (tiny / SHRINK_TABLE).write_text("{}")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    assert "Read-only file system" in cli(*inputs.tune("--out", tiny)).error
    assert "nothing can be written there" in cli(*inputs.tune("--storage", sqlite_url(tiny / "x.db"))).error
    assert contents(tiny) == {SHRINK_TABLE: b"{}"}
