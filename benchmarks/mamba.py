"""vLLM's decode step of Mamba-2 layers, tuned against what vLLM runs without a tuned file, on one GPU.

    python benchmarks/vllm_standins.py WHEELS/vllm-0.33.0-*.whl .vllm
    python benchmarks/mamba.py --out mamba

The shape is that of Nemotron-3-Nano-30B-A3B at a tensor-parallel size of 1, unless another is named. All configs of the
small grid are measured. Takes a minute with 14 compile processes.
"""

import argparse
from pathlib import Path

from against_untuned import folder_first, run

from bo_tune.kernels.mamba.spec import MambaSpec
from bo_tune.kernels.mamba.step import STATE_DTYPES, MambaStep
from bo_tune.measure.source import VLLM

SEQUENCES = (1, 8, 32, 128, 256, 512)


def main() -> None:
    """Read the command line, tune and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for vLLM's file and the report")
    parser.add_argument("--sequences", type=int, nargs="+", default=SEQUENCES, help="that decode in a step")
    parser.add_argument("--heads", type=int, default=64, help="of one rank")
    parser.add_argument("--headdim", type=int, default=64)
    parser.add_argument("--dstate", type=int, default=128)
    parser.add_argument("--groups", type=int, default=8, help="of one rank")
    parser.add_argument("--state-dtype", choices=STATE_DTYPES, default="float32")
    parser.add_argument("--jobs", type=int, help="compile processes")
    options = parser.parse_args()
    folder_first(".vllm")
    shape = options.heads, options.headdim, options.dstate, options.groups
    steps = [MambaStep(count, *shape, state_dtype=options.state_dtype) for count in options.sequences]
    problems = {step.problem: ("mamba",) for step in steps}
    run(VLLM, problems, options.out, budget=1 + len(MambaSpec().search_space), jobs=options.jobs)


if __name__ == "__main__":
    main()
