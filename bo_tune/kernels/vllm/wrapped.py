"""Tells what the installed vLLM wraps with LoRA in a model. Its own LoRA manager is asked, in a separate process.

The model is built as an engine builds it, but on the meta device, where no weight takes memory. It is built as one of
several tensor-parallel ranks, none of which exists. Read from vLLM 0.26.0 and 0.33.0: ``lora/model_manager.py``,
``lora/layers``, ``distributed/parallel_state.py``, ``model_executor/model_loader/utils.py``.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch

UNWANTED = ("BO_TUNE_LOOKUPS", "VLLM_LORA_ENABLE_DUAL_STREAM", "VLLM_TUNED_CONFIG_FOLDER")
"""Environment variables that make vLLM do more than build the model."""

GROUPS = ("_WORLD", "_INNER_DP_WORLD", "_TP", "_DCP", "_PCP", "_PP", "_DP", "_EP", "_EPLB")
"""Process groups of ``parallel_state``, by its names. Ranks share only tensors and experts."""

SPREAD = frozenset({"_WORLD", "_TP", "_EP"})

LONGEST_REASON = 500
"""Longest error text of vLLM to pass on, in characters."""

MAX_LORAS = 1
"""Slots of the manager that is asked. No size depends on them."""


def main() -> None:
    """Answer one request: options of ``EngineArgs`` as JSON in the first argument, the answer as JSON on stdout.

    vLLM's own output goes to stderr. An answer has ``version``, ``layers`` and ``experts``, or ``error``.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for name in UNWANTED:
        os.environ.pop(name, None)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        answer = wrapped(json.loads(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - any error that vLLM raises for a model is its answer
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_REASON]}"}
    with answers:
        json.dump(answer, answers)


def wrapped(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the layers of a model that the LoRA manager wraps.

    Args:
        asked: options of ``EngineArgs``. ``tensor_parallel_size`` may exceed the number of GPUs.
    """
    config = _config(asked, ranks := asked.pop("tensor_parallel_size"))
    _pretend(ranks)
    manager = _manager(config)
    # A module in several places, such as a router that experts hold too, is wrapped once.
    found = [(re.sub(r"\.\d+(?=\.|$)", ".*", name), layer) for name, layer in manager.modules.items()]
    dense = [_dense(name, layer, config) for name, layer in found if not hasattr(layer, "w13_lora_a_stacked")]
    experts = [_experts(name, layer) for name, layer in found if hasattr(layer, "w13_lora_a_stacked")]
    if any(others != experts[0] for others in experts):
        raise ValueError("the model's layers have experts of different shapes")
    return {
        "version": _of("", "__version__"),
        "layers": [dict(items) for items in dict.fromkeys(tuple(layer.items()) for layer in dense)],
        "experts": experts[0] if experts else None,
    }


def _of(module: str, *names: str) -> Any:
    """Return an attribute of a module of vLLM, or a tuple of several."""
    loaded = import_module(f"vllm.{module}" if module else "vllm")
    found = tuple(getattr(loaded, name) for name in names)
    return found if len(names) > 1 else found[0]


def _config(asked: dict[str, Any], ranks: int) -> Any:
    """Return vLLM's config of an engine. It is made for one rank, since there may be fewer GPUs than ranks."""
    _of("plugins", "load_general_plugins")()  # models of third parties register here
    arguments = _of("engine.arg_utils", "EngineArgs")
    options = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "enable_lora": True,
        "max_loras": MAX_LORAS,
        **asked,
    }
    known = {field.name for field in dataclasses.fields(arguments)}
    unknown = sorted(name for name in options.keys() - known if options[name])
    if unknown:
        raise ValueError(f"this vLLM has no --{unknown[0].replace('_', '-')}")
    config = arguments(**{name: value for name, value in options.items() if name in known}).create_engine_config()
    config.parallel_config.tensor_parallel_size = ranks
    config.parallel_config.world_size = ranks
    return config


class _TorchGroup:
    """Stands in for a process group of torch, as seen by its first rank."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks

    def size(self) -> int:
        return self._ranks

    def rank(self) -> int:
        return 0


class _Group:
    """Stands in for a process group, as seen by its first rank."""

    rank_in_group = local_rank = 0
    is_first_rank = True
    device_communicator = None

    def __init__(self, ranks: int) -> None:
        self.world_size = ranks
        self.device_group = self.cpu_group = _TorchGroup(ranks)
        self.rank, self.ranks = 0, list(range(ranks))
        self.is_last_rank = ranks == 1
        self.first_rank, self.last_rank = 0, ranks - 1


def _pretend(ranks: int) -> None:
    """Make vLLM believe that it is the first of several tensor-parallel ranks."""
    parallel_state = import_module("vllm.distributed.parallel_state")
    for name in GROUPS:
        if hasattr(parallel_state, name):
            setattr(parallel_state, name, _Group(ranks if name in SPREAD else 1))


def _manager(config: Any) -> Any:
    """Build the model on the meta device, and let the LoRA manager wrap it."""
    torch.set_default_dtype(config.model_config.dtype)
    # vLLM searches tensors for this rank's experts, which the meta device cannot do. No size depends on the result.
    import_module("torch.fx.experimental._config").meta_nonzero_assume_all_nonzero = True  # type: ignore[attr-defined]
    _without_values()
    with torch.device("meta"), _of("config", "set_current_vllm_config")(config):
        model = _of("model_executor.model_loader.utils", "initialize_model")(vllm_config=config)
        _without_launchers(model)
        return _of("lora.model_manager", "create_lora_manager")(
            model,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
            vocab_size=config.model_config.get_vocab_size(),
            lora_config=config.lora_config,
            vllm_config=config,
            device=torch.device("meta"),
        )


def _without_values() -> None:
    """Replace a function that reads values, which meta tensors do not have. It only makes a log line."""
    with suppress(ImportError):
        experts = import_module("vllm.model_executor.layers.fused_moe.expert_map_manager")
        experts.ExpertMapManager.get_compressed_map_string = lambda *_: ""


def _without_launchers(model: Any) -> None:
    """Replace the objects that launch kernels. No size depends on them. Those of experts are made from weights."""
    manager = import_module("vllm.lora.model_manager")
    manager.get_punica_wrapper = lambda *_, **__: object()  # type: ignore[attr-defined]
    fused_moe = import_module("vllm.lora.layers.fused_moe")

    class Launcher:
        impl = object.__new__(fused_moe.FusedMoEKernelModularImpl)
        is_monolithic = False

        def supports_lora(self) -> bool:
            return True

    fused_moe.FusedMoEWithLoRA.set_mapping = lambda *_: None
    fused_moe.FusedMoEModularMethod = lambda method, _kernel: method  # type: ignore[attr-defined]
    for module in model.modules():
        if hasattr(module, "routed_experts"):
            module.routed_experts.quant_method.moe_kernel = Launcher()
            object.__setattr__(module, "_replace_quant_method", lambda _method: None)


def _dense(name: str, layer: Any, config: Any) -> dict[str, Any]:
    """Describe a wrapped layer: shrink's k and n (0 if nothing shrinks), and the width of each slice of expand."""
    kind = type(layer).__name__
    stacked = layer.lora_a_stacked, layer.lora_b_stacked
    a, b = (weights if isinstance(weights, tuple | list) else (weights,) for weights in stacked)
    embedding = "Embedding" in kind
    return {
        "name": name,
        "shrink_k": 0 if embedding else a[0].shape[-1],
        "shrink_n": 0 if embedding else a[0].shape[-2],
        "widths": tuple(one.shape[-2] for one in b),
        "per_sequence": "Logits" in kind,
        "adds": tuple(_adds(layer, kind, config)),
    }


def _adds(layer: Any, kind: str, config: Any) -> Iterator[bool]:
    """Yield whether expand adds to its output in an engine of two streams.

    Yields both values if it depends on how the engine was started.
    """
    shared = _of("model_executor.layers.linear", "ColumnParallelLinear", "RowParallelLinear")
    base, fully = getattr(layer, "base_layer", None), config.lora_config.fully_sharded_loras
    spread = isinstance(base, shared)
    own = spread and getattr(type(base), "forward", None) not in {one.forward for one in shared}
    alone = getattr(base, "tp_size", 1) == 1
    yield not spread or "Sharded" in kind or (own and alone) or fully
    if spread and fully and "Sharded" not in kind and not (own and alone):
        yield False


def _experts(name: str, layer: Any) -> dict[str, Any]:
    """Describe wrapped experts by the sizes under which the engine looks them up."""
    w13_a, w13_b, w2_a = layer.w13_lora_a_stacked, layer.w13_lora_b_stacked, layer.w2_lora_a_stacked
    moe = layer.base_layer.moe_config
    return {
        "name": name,
        "slices": len(w13_a),
        "k13": w13_a[0].shape[2],
        "k2": w2_a[0].shape[2],
        "hidden": w13_a[0].shape[3],
        "i13": w13_b[0].shape[2],
        "i2": w2_a[0].shape[3],
        "count": moe.num_experts,
        "local": moe.num_local_experts,
        "top_k": moe.experts_per_token,
    }
