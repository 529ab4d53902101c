"""The eleven kernels of ``drop_in``, with spaces and problems for a GPU: those of examples and tests are small.

Spaces have 200 configs or more. Three kernels have so little to choose that all of it is measured: fewer than 40.
"""

from dataclasses import replace
from pathlib import Path

from bo_tune.kernels.user.definition import Definition, Params, Sizes
from bo_tune.processes.importing import import_source

ROOT = Path(__file__).resolve().parents[1]

_field = import_source(str(ROOT / "tests" / "kernels" / "user" / "field_kernels.py"))
_tutorial = import_source(str(ROOT / "tests" / "kernels" / "user" / "tutorial_softmax.py"))
_examples = {name: import_source(str(ROOT / "examples" / f"{name}.py")) for name in ("matmul", "layer_norm", "split_k")}


def fits(_: Sizes, config: Params) -> bool:
    """Fewer than 256 accumulators in a thread: more would spill, and take long to compile."""
    return bool(config["BLOCK_M"] * config["BLOCK_N"] / (32 * config["num_warps"]) < 256)


softmax = replace(
    _tutorial.persistent,
    name="softmax",
    space={
        "PROGRAMS": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
        "num_stages": (1, 2, 3, 4),
        "num_warps": (1, 2, 4, 8, 16),
    },
)
matmul = replace(
    _examples["matmul"].matmul,
    name="matmul",
    space={
        "BLOCK_M": (64, 128, 256),
        "BLOCK_N": (64, 128, 256),
        "BLOCK_K": (32, 64),
        "GROUP_M": (4, 8),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    },
)
tma_matmul = replace(
    _field.tma_matmul,
    space={
        "BLOCK_M": (64, 128, 256),
        "BLOCK_N": (32, 64, 128, 256),
        "BLOCK_K": (32, 64, 128),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5, 6),
    },
)
persistent_matmul = replace(
    _field.persistent_matmul,
    space={
        "BLOCK_M": (64, 128),
        "BLOCK_N": (64, 128, 256),
        "BLOCK_K": (32, 64),
        "GROUP_M": (8,),
        "FLATTEN": (False, True),
        "PROGRAMS": (1, 2),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
)
layer_norm_backward = replace(
    _examples["layer_norm"].layer_norm_backward,
    space={
        "GROUPS": (16, 32, 64, 128, 256),
        "num_warps": (4, 8, 16),
        "SUM_ROWS": (16, 32, 64),
        "SUM_COLS": (64, 128),
        "sum_warps": (2, 4, 8),
    },
)
split_k = replace(
    _examples["split_k"].split_k,
    space={
        "BLOCK_M": (16,),
        "BLOCK_N": (32, 64, 128),
        "BLOCK_K": (64, 128, 256),
        "SPLIT_K": (1, 2, 4, 8, 16),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
)
attention = replace(
    _field.attention,
    name="attention",
    space={
        "BLOCK_M": (16, 32, 64, 128, 256),
        "BLOCK_N": (16, 32, 64, 128),
        "num_warps": (4, 8),
        "num_stages": (1, 2, 3, 4, 5),
    },
)
cross_entropy = replace(
    _field.cross_entropy,
    name="cross_entropy",
    space={"BLOCK": (1024, 2048, 4096, 8192, 16384, 32768), "num_warps": (1, 2, 4, 8, 16, 32)},
    default={"BLOCK": 4096, "num_warps": 8},
)
state_update = replace(
    _field.state_update,
    name="state_update",
    space={"BLOCK_W": (1, 2, 4, 8, 16, 32, 64, 128), "num_warps": (1, 2, 4, 8)},
)
grouped_gemm = replace(
    _field.grouped,
    space={
        "BLOCK_M": (64, 128),
        "BLOCK_N": (64, 128, 256),
        "BLOCK_K": (32, 64),
        "PROGRAMS": (1, 2, 4),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    },
    default={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "PROGRAMS": 1, "num_warps": 4, "num_stages": 2},
    valid=fits,
)
adam = replace(
    _field.adam,
    space={"BLOCK": (256, 512, 1024, 2048, 4096, 8192), "num_warps": (1, 2, 4, 8, 16)},
    default={"BLOCK": 1024, "num_warps": 4},
)

CASES: dict[str, tuple[Definition, dict[str, bool | int | str]]] = {
    "softmax": (softmax, {"rows": 8192, "cols": 4096}),
    "matmul": (matmul, {"M": 4096, "N": 4096, "K": 4096, "dtype": "float16"}),
    "tma_matmul": (tma_matmul, {"M": 4096, "N": 4096, "K": 4096}),
    "persistent_matmul": (persistent_matmul, {"M": 4096, "N": 4096, "K": 4096}),
    "layer_norm_backward": (layer_norm_backward, {"rows": 4096, "cols": 4096}),
    "split_k": (split_k, {"M": 16, "N": 4096, "K": 4096}),
    "attention": (attention, {"heads": 32, "rows": 2048, "dim": 64, "causal": True}),
    "cross_entropy": (cross_entropy, {"rows": 2048, "cols": 32000}),
    "state_update": (state_update, {"batch": 64, "width": 4096, "depth": 16}),
    "grouped_gemm": (grouped_gemm, {"groups": 8, "rows": 512, "N": 2048, "K": 2048}),
    "adam": (adam, {"n": 4194304, "tensors": 4}),
}
"""Each kernel with the problem that it is tuned on."""
