"""SGLang's chunked LoRA kernels, tuned against what SGLang runs without tuned files, on one GPU.

    python benchmarks/sglang_standins.py WHEELS/sglang-0.5.23-*.whl .sglang
    python benchmarks/sglang.py --out sglang

The problems are those of Llama-3.1-8B at rank 16 and a tensor-parallel size of 1, unless another model is named: a step
that decodes, in chunks of 16 tokens, and one with prefill, in chunks of 128. Takes two minutes with 14 compile
processes.
"""

import argparse
from pathlib import Path

from against_untuned import ROOT, folder_first, run

from bo_tune.core.choices import EngineChoice
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.registry import served_problems
from bo_tune.measure.source import SGLANG


def main() -> None:
    """Read the command line, tune and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for SGLang's files and the report")
    parser.add_argument("--model", default=str(ROOT / "studies" / "models" / "llama-3.1-8b"), help="config.json")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=8, help="SGLang's --max-loras-per-batch")
    parser.add_argument("--chunk-size", type=int, default=128, help="SGLang's --max-lora-chunk-size")
    parser.add_argument("--m", type=int, nargs="+", default=(32, 1024), help="tokens in a step")
    parser.add_argument("--budget", type=int, default=30, help="configs of each study")
    parser.add_argument("--jobs", type=int, help="compile processes")
    options = parser.parse_args()
    folder_first(".sglang")
    model = ModelStudy.of(
        options.model,
        tensor_parallel=options.tp,
        ranks=[options.rank],
        max_loras=[options.adapters],
        ms=options.m,
        engine=EngineChoice.SGLANG,
        chunk_size=options.chunk_size,
    )
    run(SGLANG, served_problems(model), options.out, budget=options.budget, jobs=options.jobs)


if __name__ == "__main__":
    main()
