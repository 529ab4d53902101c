"""Decode steps of a whole vLLM that serves adapters on attention and experts, with a tuned folder and without.

    python benchmarks/serve_experts.py run --out without.1.json
    python benchmarks/serve_experts.py run --tuned tuned --out with.1.json
    python benchmarks/serve_experts.py compare --without without.*.json --tuned with.*.json

``run`` starts one engine with Qwen3-30B-A3B's dimensions, fewer layers and random weights, four adapters of rank 16
that change nothing, and CUDA graphs, and times decode steps of 1, 16, 64 and 256 sequences: the seconds of long
answers less those of short ones, over the steps between, in ms. ``compare`` takes the starts of both kinds in the order
in which they were made, in pairs, and gives the mean difference with its 90 % interval over pairs (Student's t).

Needs a GPU and vLLM; it was written for 0.26.0.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import t as student

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "studies" / "models" / "qwen3-30b-a3b" / "config.json"
BATCHES = (1, 16, 64, 256)
RANK, ADAPTERS, PROMPT = 16, 4, 32
SHORT, LONG = 8, 72
REPEATS = 8
MORE = {
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "norm_topk_prob": True, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "max_position_embeddings": 4096,
}  # fmt: skip
"""What an engine needs of a config besides its dimensions."""

ENGINE = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}  # fmt: skip


def model(folder: Path, layers: int) -> dict[str, Any]:
    """Write a model's config into a folder and return it."""
    config: dict[str, Any] = {**MORE, **json.loads(CONFIG.read_text()), "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    return config


def adapter(folder: Path, config: Mapping[str, Any]) -> None:
    """Write an adapter of attention and experts whose tensors are zero into a folder."""
    import torch  # noqa: PLC0415 - after the engine's environment is set
    from safetensors.torch import save_file  # noqa: PLC0415

    hidden, wide = config["hidden_size"], config["moe_intermediate_size"]
    q, kv = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    attention = {"q_proj": (hidden, q), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (q, hidden)}
    expert = {"gate_proj": (hidden, wide), "up_proj": (hidden, wide), "down_proj": (wide, hidden)}
    sizes = {
        f"base_model.model.model.layers.{layer}.{name}": size
        for layer in range(config["num_hidden_layers"])
        for name, size in [
            *((f"self_attn.{name}", size) for name, size in attention.items()),
            *((f"mlp.experts.{e}.{name}", size) for e in range(config["num_experts"]) for name, size in expert.items()),
        ]
    }
    tensors = {f"{name}.lora_A.weight": torch.zeros(RANK, k, dtype=torch.bfloat16) for name, (k, _) in sizes.items()}
    tensors |= {f"{name}.lora_B.weight": torch.zeros(n, RANK, dtype=torch.bfloat16) for name, (_, n) in sizes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": [*attention, *expert], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**said, "task_type": "CAUSAL_LM"}))


def run(layers: int, tuned: Path | None) -> dict[str, Any]:
    """Start an engine and time its decode steps."""
    os.environ.update(ENGINE)
    os.environ.pop("VLLM_TUNED_CONFIG_FOLDER", None)
    if tuned is not None:
        os.environ["VLLM_TUNED_CONFIG_FOLDER"] = str(tuned.resolve())
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in ("model", "adapter")]
        for folder in folders:
            folder.mkdir()
        adapter(folders[1], model(folders[0], layers))
        import torch  # noqa: PLC0415 - see above
        import vllm  # noqa: PLC0415

        started = time.perf_counter()
        engine = vllm.LLM(
            str(folders[0]), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=2048,
            gpu_memory_utilization=0.8, enable_prefix_caching=False, max_num_seqs=max(BATCHES), seed=0,
            max_num_batched_tokens=2048, compilation_config={"cudagraph_capture_sizes": list(BATCHES)},
            disable_log_stats=True, enable_lora=True, max_loras=ADAPTERS, max_lora_rank=RANK,
        )  # fmt: skip
        start_s = time.perf_counter() - started
        steps = {batch: step_ms(generation(engine, folders[1], batch)) for batch in BATCHES}
        versions = {"vllm": vllm.__version__, "torch": torch.__version__, "gpu": torch.cuda.get_device_name()}
    return {**versions, "tuned": str(tuned) if tuned else None, "layers": layers, "start_s": start_s, "step_ms": steps}


def generation(engine: Any, path: Path, batch: int) -> Callable[[int], float]:
    """Return what has a batch of sequences answered with so many tokens, in seconds."""
    from vllm import SamplingParams  # noqa: PLC0415
    from vllm.lora.request import LoRARequest  # noqa: PLC0415

    prompts = [{"prompt_token_ids": [(7 * i + j) % 30000 + 10 for j in range(PROMPT)]} for i in range(batch)]
    adapters = [LoRARequest(f"a{i % ADAPTERS}", i % ADAPTERS + 1, str(path)) for i in range(batch)]

    def answer(tokens: int) -> float:
        start = time.perf_counter()
        wanted = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        engine.generate(prompts, wanted, lora_request=adapters, use_tqdm=False)
        return time.perf_counter() - start

    return answer


def step_ms(answer: Callable[[int], float]) -> list[float]:
    """Return the time of a decode step, one for each repeat."""
    answer(SHORT)
    pairs = [(answer(SHORT), answer(LONG)) for _ in range(REPEATS)]
    return [1e3 * (long - short) / (LONG - SHORT) for short, long in pairs]


def compared(without: Sequence[Path], tuned: Sequence[Path]) -> list[str]:
    """Return a table of both kinds of starts."""
    found = [[json.loads(path.read_text()) for path in paths] for paths in (without, tuned)]
    yes, no = f"with the folder ({len(tuned)} starts)", f"without ({len(without)} starts)"
    lines = [f"| sequences | {no}, ms | {yes}, ms | difference | 90 % interval |", "|---|---|---|---|---|"]
    for batch in map(str, BATCHES):
        before, after = (np.array([median(start["step_ms"][batch]) for start in kind]) for kind in found)
        change = 100 * (after / before - 1)
        half = student.ppf(0.95, len(change) - 1) * change.std(ddof=1) / len(change) ** 0.5
        cells = [" / ".join(f"{ms:.2f}" for ms in kind) for kind in (before, after)]
        interval = f"{change.mean() - half:+.1f} … {change.mean() + half:+.1f} %"
        lines.append(f"| {batch} | {cells[0]} | {cells[1]} | {change.mean():+.1f} % | {interval} |")
    return lines


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--tuned", type=Path, help="folder of tuned JSON; without one the engine runs untuned")
    one.add_argument("--layers", type=int, default=12)
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("compare")
    two.add_argument("--without", nargs="+", type=Path, required=True, help="files of engines without a folder")
    two.add_argument("--tuned", nargs="+", type=Path, required=True, help="files of engines with it")
    options = parser.parse_args()
    if options.command == "run":
        found = run(options.layers, options.tuned)
        options.out.write_text(json.dumps(found, indent=1))
        print({batch: round(median(times), 3) for batch, times in found["step_ms"].items()})
        return
    if len(options.without) != len(options.tuned) or len(options.tuned) < 2:
        sys.exit(
            f"expected as many starts of both kinds, two at least: {len(options.without)} and {len(options.tuned)}"
        )
    print("\n".join(compared(options.without, options.tuned)))


if __name__ == "__main__":
    main()
