"""A valid specimen of each kind of input, and the commands that read it; ``{in}`` and ``{out}`` stand for folders."""

import gzip
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from damages import as_toml
from helpers import ROOT, SHRINK, SHRINK_TABLE, sliced, write_all
from pack_samples import ENTRY, binary, cache_folder, failure, manifest
from pack_samples import FILES as PACKED

from bo_tune.formats.pack.archive import write_pack

Command = tuple[str, ...]

STUDY = {
    "name": "fuzzed",
    "kernels": ["lora_shrink"],
    "budget": {"launched_configs": 2, "finalists": 1},
    "search": {"sampler": "random", "seed": 1, "stop": True, "tolerance": 0.01, "risk": 0.1},
    "space": {"lora_shrink": {"block_m": [16, 64], "num_stages": [2, 5]}},
    "problem": [
        {"kernel": "lora_shrink", "max_loras": 4, "num_slices": 1, "m": [16], "k": 4096, "n": 16, "dtype": "bfloat16"}
    ],
}
MODEL_STUDY = {
    "kernels": ["lora_shrink"],
    "model": {"config": "config.json", "m": [16], "ranks": [16], "max_loras": 4, "adapter": "adapter_config.json"},
    "search": {"sampler": "random"},
}
ADAPTER = {
    "r": 16,
    "lora_alpha": 16,
    "target_modules": ["o_proj"],
    "rank_pattern": {"o_proj": 8},
    "bias": "none",
    "layers_to_transform": [0, 1],
    "layers_pattern": "layers",
    "exclude_modules": None,
    "modules_to_save": None,
}
SMALL = {
    "block_m": (16, 64),
    "block_n": (32,),
    "block_k": (256,),
    "num_warps": (4, 8),
    "num_stages": (2, 5),
    "split_k": (8,),
}
RECORDING = "recordings/h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json"
TABLE = f"tuned/{SHRINK_TABLE}"
SIDECAR = TABLE.replace(".json", ".provenance.json")
MODEL, EXPERTS, HITS, SESSION = "config.json", "experts.json", "hits.json", "session.json"
ADAPTER_CONFIG, EXPORT, PACK, DATABASE = "adapter_config.json", "exported/x.t4.json", "x.pack", "x.db"

STORED = ("--storage", "sqlite:///{in}/x.db")
RANDOM = ("--sampler", "random", "--budget", "2", "--no-bundled")
TUNE = ("tune", "--device", "replay:{in}/recordings", *RANDOM, "--out", "{out}")
FORGOTTEN = (*TUNE, "--storage", "memory")
# The only problem of the model that is recorded, so that what is valid is tuned.
SERVED = (*FORGOTTEN, "--kernel", "lora_shrink", "--max-loras", "4", "--m", "16", "--model", "{in}/config.json")
OF_ONE_LAYER = (*SERVED, "--rank", "16", "--target-modules", "o_proj")
CHECK = ("check", "{in}/tuned", "--max-loras", "4", "--rank", "16", "--gpu", "NVIDIA H100 80GB HBM3", "--model")
CHECK_IT = (*CHECK, "{in}/config.json")
COMPARE = ("compare", "{in}/tuned", "{in}/grid")
MERGE = ("merge", "{in}/tuned", "{in}/grid", "--out", "{out}")
SIMULATE = ("simulate", "--recordings", "{in}/recordings", *RANDOM)
IMPORT = ("import", "{in}/exported", "--storage", "sqlite:///{out}/x.db")
SHOW, SHOW_ONE = ("show", *STORED), ("show", "lora_shrink", *STORED)
EXPORT_ALL = ("export", *STORED, "--out", "{out}")
REPORT = ("report", *STORED, "--out", "{out}/x.html", "--session", "{in}/session.json")
UNPACK = ("unpack", "{in}/x.pack", "{out}")
"""What ``tune --pack`` does first, without the GPU that it needs: no command of its own."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file, by its specimen's name, and the commands that read it."""

    name: str
    commands: tuple[Command, ...]


DOCUMENTS: Mapping[str, Kind] = {
    "study file": Kind("study.toml", ((*FORGOTTEN, "{in}/study.toml"),)),
    "study file of a model": Kind("model.toml", ((*FORGOTTEN, "{in}/model.toml"),)),
    "model config": Kind(MODEL, (OF_ONE_LAYER, CHECK_IT)),
    "model config with experts": Kind(EXPERTS, ((*CHECK, "{in}/experts.json"),)),
    "adapter config": Kind(ADAPTER_CONFIG, ((*SERVED, "--adapter", "{in}/adapter_config.json"),)),
    "tuned JSON": Kind(TABLE, (CHECK_IT, COMPARE, MERGE)),
    "sidecar": Kind(SIDECAR, (COMPARE, MERGE, CHECK_IT)),
    "recording": Kind(RECORDING, (SIMULATE, FORGOTTEN, (*COMPARE, "--recordings", "{in}/recordings"))),
    "export": Kind(EXPORT, (IMPORT,)),
    "figures of a session": Kind(SESSION, (REPORT,)),
    "hits of experts": Kind(HITS, ((*FORGOTTEN, "--experts", "{in}/hits.json"),)),
}
LOOK = (SHOW, SHOW_ONE, EXPORT_ALL, (*TUNE, *STORED))
"""Commands that read a database."""

OPTIONS: Mapping[Command, str] = {
    FORGOTTEN: "budget seed sampler kernel m lease jobs device timing gpus storage out json experts active-loras",
    OF_ONE_LAYER: "tp max-loras rank m target-modules adapter max-num-seqs model",
    CHECK_IT: "max-loras rank tp gpu max-num-seqs target-modules json",
    SIMULATE: "recordings history sampler json",
    SHOW: "storage json",
    EXPORT_ALL: "out kernel gpu storage",
    IMPORT: "storage",
    MERGE: "out",
    ("delete", "no such study", *STORED): "storage",
    COMPARE: "recordings json",
}
"""Options of commands; each also takes a hostile word where it takes names."""

URLS = (
    "sqlite:///{out}", "sqlite://", "sqlite:///{in}/pipe", "sqlite:///{in}/study.toml", "sqlite:///{out}/a\x1bb.db",
    "sqlite:////nowhere/x.db", "mysql://", "x://y", "postgresql+psycopg://u:secret@127.0.0.1:1/x", "http://[::1",
    "replay:{out}", "replay:", "cuda:0", "{in}/pipe", "{in}/x.db",
)  # fmt: skip
VARIABLES = ("COLUMNS", "LINES", "TERM", "NO_COLOR", "TZ", "LANG", "TRITON_CACHE_DIR", "TMPDIR", "HOME")

WRITTEN: tuple[tuple[str, Command], ...] = (
    ("", FORGOTTEN),
    (SHRINK_TABLE, FORGOTTEN),
    (Path(SIDECAR).name, FORGOTTEN),
    (f".{SHRINK_TABLE}.lock", FORGOTTEN),
    (SHRINK_TABLE, MERGE),
    ("x.json", (*FORGOTTEN, "--json", "{out}/x.json")),
    ("x.db", (*TUNE, "--storage", "sqlite:///{out}/x.db")),
    ("x.db", IMPORT),
    ("x.json", (*SHOW, "--json", "{out}/x.json")),
)
"""What commands write in ``{out}``; "" is the folder itself."""


def placed(command: Command, places: Mapping[str, Path]) -> Command:
    """Return a command line with the folders that it is about."""
    for name, path in places.items():
        command = tuple(word.replace(f"{{{name}}}", str(path)) for word in command)
    return command


def furnish(folder: Path, run: Callable[[Command], object]) -> None:
    """Write a specimen of each kind."""
    (folder / "study.toml").write_bytes(as_toml(STUDY))
    (folder / "model.toml").write_bytes(as_toml(MODEL_STUDY))
    for name, model in ((MODEL, "llama-3.1-8b"), (EXPERTS, "qwen3-30b-a3b")):
        shutil.copy(ROOT / "studies" / "models" / model / "config.json", folder / name)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(ADAPTER))
    (folder / HITS).write_text("[1, 2, 3, 0]")
    write_all(folder / "recordings", replace(sliced(SHRINK, **SMALL), path=Path(Path(RECORDING).name)))
    tuned, grid = ({"in": folder, "out": folder / name} for name in ("tuned", "grid"))
    run(placed((*TUNE, *STORED, "--json", "{in}/session.json"), tuned))
    run(placed(FORGOTTEN, grid))
    run(placed(EXPORT_ALL, {"in": folder, "out": folder / "exported"}))
    (exported,) = (folder / "exported").iterdir()
    (folder / EXPORT).write_bytes(gzip.decompress(exported.read_bytes()))
    exported.unlink()
    cache = cache_folder(folder / "cache", **{ENTRY: PACKED})
    write_pack(folder / PACK, manifest(binary(), failure()), cache)
    shutil.rmtree(cache)
