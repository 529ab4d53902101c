"""Decode steps and prefill of a whole vLLM that serves adapters: untuned and tuned, on one stream and two.

    python benchmarks/serving.py run --model DIR --mode untuned --out untuned.1.json
    python benchmarks/serving.py run --model DIR --mode tuned --tuned DIR --out tuned.1.json
    python benchmarks/serving.py compare *.json

``run`` starts one engine with a model's dimensions and random weights, four adapters of rank 16, and CUDA graphs. It
times decode steps: the seconds of long answers less those of short ones, over the steps between, in ms. It times the
prefill of 32 prompts of 1,024 tokens, in s. With ``--profile`` it also tells how long each LoRA kernel of a decoder
layer takes in a decode step, in us. Modes: ``none`` (no adapters), ``untuned``, ``tuned``, and the latter two with
``two-`` in front, in an engine with ``VLLM_LORA_ENABLE_DUAL_STREAM=1``. Adapters of a model with experts are zero:
there are tens of thousands of tensors.

``compare`` puts starts side by side. Where a mode was started as often as ``untuned``, it pairs them in the order of
their files and gives the mean difference with its 90 % interval over pairs (Student's t).

Needs a GPU and vLLM; it was written for 0.26.0.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import t as student

MODES = ("none", "untuned", "tuned", "two-untuned", "two-tuned")
BATCHES = (1, 16, 64, 128)
CAPTURED = (1, 8, 16, 32, 64, 128, 256)
RANK, ADAPTERS, PROMPT = 16, 4, 32
SHORT, LONG = 8, 136
REPEATS = 4
PREFILL = (32, 1024)
PROFILED_TOKENS = 12
KERNELS = ("lora_shrink", "lora_expand")
DENSE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
MORE = {
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "norm_topk_prob": True, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
"""What an engine needs of a config besides its dimensions."""

ENGINE = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}  # fmt: skip


def model(source: Path, folder: Path, layers: int | None) -> dict[str, Any]:
    """Write a model's config into a folder and return it."""
    config: dict[str, Any] = {**MORE, **json.loads((source / "config.json").read_text())}
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    return config


def sizes_of(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return input and output width of every module with adapters, by its full name."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    q, kv = heads * head, config["num_key_value_heads"] * head
    one = {f"self_attn.{name}": size for name, size in {
        "q_proj": (hidden, q), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (q, hidden)
    }.items()}  # fmt: skip
    experts = config.get("num_experts", 0)
    wide = config["moe_intermediate_size"] if experts else config["intermediate_size"]
    mlp = {"gate_proj": (hidden, wide), "up_proj": (hidden, wide), "down_proj": (wide, hidden)}
    places = [f"mlp.experts.{number}" for number in range(experts)] or ["mlp"]
    one |= {f"{place}.{name}": size for place in places for name, size in mlp.items()}
    layers = range(config["num_hidden_layers"])
    return {f"base_model.model.model.layers.{layer}.{name}": size for layer in layers for name, size in one.items()}


def adapter(folder: Path, config: Mapping[str, Any], seed: int) -> None:
    """Write an adapter of all linears into a folder."""
    import torch  # noqa: PLC0415 - after the engine's environment is set
    from safetensors.torch import save_file  # noqa: PLC0415

    generator, scale = torch.Generator().manual_seed(seed), 0.0 if config.get("num_experts") else 0.01

    def drawn(*shape: int) -> Any:
        values = torch.randn(shape, generator=generator) * scale if scale else torch.zeros(shape)
        return values.bfloat16()

    tensors = {}
    for name, (k, n) in sizes_of(config).items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = drawn(RANK, k), drawn(n, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": sorted(DENSE), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**said, "task_type": "CAUSAL_LM"}))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Start an engine and time it."""
    os.environ.update(ENGINE)
    os.environ.pop("VLLM_TUNED_CONFIG_FOLDER", None)
    os.environ["VLLM_LORA_ENABLE_DUAL_STREAM"] = str(int(options.mode.startswith("two-")))
    if options.mode.endswith("-tuned") or options.mode == "tuned":
        os.environ["VLLM_TUNED_CONFIG_FOLDER"] = str(options.tuned.resolve())
    with tempfile.TemporaryDirectory() as place:
        served, paths = Path(place, "model"), []
        served.mkdir()
        config = model(options.model, served, options.layers)
        for number in range(ADAPTERS if options.mode != "none" else 0):
            # Experts' adapters are gigabytes of zeros: one serves as all four.
            same = bool(paths) and bool(config.get("num_experts"))
            paths.append(paths[0] if same else Path(place, f"adapter{number}"))
            if not same:
                paths[-1].mkdir()
                adapter(paths[-1], config, number)
        import torch  # noqa: PLC0415 - see above
        import vllm  # noqa: PLC0415

        lora = {"enable_lora": True, "max_loras": ADAPTERS, "max_lora_rank": RANK} if paths else {}
        started = time.perf_counter()
        engine = vllm.LLM(
            str(served), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=2048,
            gpu_memory_utilization=0.8, enable_prefix_caching=False, max_num_seqs=max(CAPTURED), seed=0,
            max_num_batched_tokens=2048, compilation_config={"cudagraph_capture_sizes": list(CAPTURED)},
            disable_log_stats=True, **lora,
        )  # fmt: skip
        start_s = time.perf_counter() - started
        found: dict[str, Any] = {
            "mode": options.mode, "layers": config["num_hidden_layers"], "start_s": start_s, "vllm": vllm.__version__,
            "torch": torch.__version__, "gpu": torch.cuda.get_device_name(),
        }  # fmt: skip
        found["step_ms"] = {batch: step_ms(generation(engine, paths, batch, PROMPT)) for batch in BATCHES}
        prefill = generation(engine, paths, *PREFILL)
        found["prefill_s"] = [prefill(1) for _ in range(REPEATS + 1)][1:]
        if options.profile:
            found["kernels_us"] = {b: kernels_us(generation(engine, paths, b, PROMPT)) for b in BATCHES}
    return found


def generation(engine: Any, paths: Sequence[Path], batch: int, prompt: int) -> Callable[[int], float]:
    """Return what has a batch of prompts answered with so many tokens, in seconds."""
    from vllm import SamplingParams  # noqa: PLC0415
    from vllm.lora.request import LoRARequest  # noqa: PLC0415

    prompts = [{"prompt_token_ids": [(7 * i + j) % 30000 + 10 for j in range(prompt)]} for i in range(batch)]
    at = [i % ADAPTERS for i in range(batch)]
    adapters = [LoRARequest(f"a{i}", i + 1, str(paths[i])) for i in at] if paths else None

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


def kernels_us(answer: Callable[[int], float]) -> dict[str, list[float]]:
    """Return how long the LoRA kernels take, each in the order in which a decoder layer's linears launch it."""
    import torch  # noqa: PLC0415

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        answer(PROFILED_TOKENS)
    launches: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in profile.events():
        name = next((kernel for kernel in KERNELS if kernel in event.name), None)
        if name is not None and event.device_type == torch.autograd.DeviceType.CUDA:
            launches[name].append((event.time_range.start, event.time_range.elapsed_us()))
    return {name: [time_us for _, time_us in sorted(found)] for name, found in launches.items()}


def compared(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of all starts, a mode a column: the median of its starts, and the change over ``untuned``."""
    by_mode: dict[str, list[Mapping[str, Any]]] = {mode: [] for mode in MODES}
    for start in starts:
        by_mode[start["mode"]].append(start)
    modes = [mode for mode in MODES if by_mode[mode]]
    titles = [f"{mode} ({len(by_mode[mode])} start{'s' * (len(by_mode[mode]) > 1)})" for mode in modes]
    lines = ["| sequences | " + " | ".join(titles) + " |", "|---" * (len(modes) + 1) + "|"]
    rows: dict[str, Callable[[Mapping[str, Any]], float]] = {
        f"{batch}, ms a step": (lambda start, batch=batch: median(start["step_ms"][str(batch)]))  # type: ignore[misc]
        for batch in BATCHES
    }
    rows["prefill of 32 × 1,024, s"] = lambda start: median(start["prefill_s"])
    for title, value in rows.items():
        figures = {mode: np.array([value(start) for start in by_mode[mode]]) for mode in modes}
        cells = [cell(figures[mode], figures.get("untuned") if mode != "untuned" else None) for mode in modes]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def cell(found: "np.ndarray[Any, np.dtype[Any]]", before: "np.ndarray[Any, np.dtype[Any]] | None") -> str:
    """Show a mode's starts, and what changed over those before."""
    text = f"{np.median(found):.3f}"
    if before is None:
        return text
    text += f", {100 * (np.median(found) / np.median(before) - 1):+.1f} %"
    if len(found) == len(before) > 1:
        change = 100 * (found / before - 1)
        half = student.ppf(0.95, len(change) - 1) * change.std(ddof=1) / len(change) ** 0.5
        text += f" ({change.mean() - half:+.1f} … {change.mean() + half:+.1f})"
    return text


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--model", type=Path, required=True, help="folder of a config.json")
    one.add_argument("--mode", choices=MODES, required=True)
    one.add_argument("--tuned", type=Path, help="folder of tuned JSON, for the tuned modes")
    one.add_argument("--layers", type=int, help="decoder layers, where there are to be fewer")
    one.add_argument("--profile", action="store_true", help="tell each LoRA kernel's time, too")
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("compare")
    two.add_argument("starts", nargs="+", type=Path)
    options = parser.parse_args()
    if options.command == "compare":
        print("\n".join(compared([json.loads(path.read_text()) for path in sorted(options.starts)])))
        return
    found = run(options)
    options.out.write_text(json.dumps(found))
    print(options.mode, {batch: round(median(times), 3) for batch, times in found["step_ms"].items()},
          "prefill s", round(median(found["prefill_s"]), 3), "start s", round(found["start_s"]))  # fmt: skip


if __name__ == "__main__":
    main()
