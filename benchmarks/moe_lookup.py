"""Ask vLLM's own lookup for every fused MoE entry of a study, and say whether it finds what was written.

    PYTHONPATH=.vllm VLLM_TUNED_CONFIG_FOLDER=tuned python benchmarks/moe_lookup.py studies/qwen3-30b-a3b-moe.toml

Needs vLLM (or its modules, see ``vllm_standins.py``) and, to be called by name, the GPU that was tuned for.
Exits with 1 if an entry is not found as written, or the four kernels of a problem do not agree on block_m.
"""

import os
import sys
from pathlib import Path

import torch
from vllm.lora.ops.triton_ops.utils import get_lora_op_configs

from bo_tune.engines.folder import read_table
from bo_tune.engines.vllm.file_names import table_file_name
from bo_tune.formats.study_file import load_study_file
from bo_tune.kernels.registry import kernel_spec


def main() -> None:
    """Check what the command line names."""
    folder = Path(os.environ["VLLM_TUNED_CONFIG_FOLDER"])
    gpu = torch.cuda.get_device_name().replace(" ", "_").replace("-", "_")
    wrong, blocks = 0, {}
    problems = load_study_file(Path(sys.argv[1])).problems()
    for problem in problems:
        spec = kernel_spec(problem.kernel)
        written = read_table(folder / table_file_name(gpu, spec.file_stem(problem))).configs[spec.table_key(problem)]
        found = get_lora_op_configs(
            op_type=problem.kernel,
            max_loras=problem.max_loras,
            batch=problem.m,
            hidden_size=problem.n,
            rank=problem.k,
            num_slices=problem.num_slices,
            moe_intermediate_size=problem.i,
        )
        wrong += found != written
        blocks.setdefault(spec.joint_group(problem), set()).add(found["block_m"])
    apart = sum(len(found) > 1 for found in blocks.values())
    print(f"vLLM's lookup: {len(problems)} entries asked for, {wrong} not as written; "
          f"{len(blocks)} problems, {apart} whose kernels differ in block_m")  # fmt: skip
    sys.exit(bool(wrong or apart))


if __name__ == "__main__":
    main()
