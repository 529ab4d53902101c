"""Writes ``docs/architectures.md`` from the table of architectures, and what vLLM was asked of models of theirs.

``make docs`` runs it. A test compares the committed page with what this makes.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bo_tune.engines.models.architectures.table import ARCHITECTURES, Architecture
from bo_tune.engines.models.architectures.without_adapters import WITHOUT_ADAPTERS
from bo_tune.engines.models.shape import ModelShape

PAGE = Path(__file__).parent / "architectures.md"
ASKED = Path(__file__).parent.parent / "tests" / "engines" / "models" / "lookups.json"

LLAMA_4: dict[str, Any] = {
    "architectures": ["Llama4ForCausalLM"], "hidden_size": 5120, "intermediate_size": 8192,
    "intermediate_size_mlp": 16384, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
}  # fmt: skip
"""Of an architecture that vLLM was not asked about, nor any other of the same layers."""

HEAD = """\
<!-- Made by docs/generate_architectures.py from bo_tune/engines/models: edit there, then run `make docs`. -->

# Models

`--model` takes the `config.json` of a model whose `architectures` names one of these. `bo-tune problems` lists the
lookups that follow. They are those of vLLM 0.33.0, as read from its source. vLLM 0.26.0 takes adapters of the same
architectures.

For any other model that vLLM serves, use `--derive engine`. The installed vLLM then tells the layers: it builds the
model without its weights, and runs its own LoRA manager. For the models below, it says whether this table agrees. Or
record what an engine looks up, and tune that with `--lookups`.

*Layers* are those whose adapters the engine runs, named as in `bo-tune problems` and `--lora-target-modules`. A model
of the architecture may lack some of them. *Embeddings* are wrapped without being asked for. *Experts* have gate and up
apart (2D), as one tensor (3D), or no gate. *Asked* lists the sizes at which vLLM 0.33.0's own LoRA manager was asked
about a model of this architecture, and wraps the same layers. TP is the tensor-parallel size; FS 4 is tensor-parallel
size 4 with fully sharded adapters. Where the column is empty, the layers are those of another architecture, or were
read from vLLM's source.

| architecture | layers | embeddings | experts | asked |
|---|---|---|---|---|
"""

ALONE = "; refused at others"

AFTER = """
## Without adapters

An engine with `--enable-lora` does not start with these, and bo_tune refuses them:

"""


def page() -> str:
    """Return the whole page."""
    asked = json.loads(ASKED.read_text())
    rows = [f"| {' | '.join(_row(name, known, asked))} |" for name, known in sorted(ARCHITECTURES.items())]
    refused = ", ".join(f"`{name}`" for name in sorted(WITHOUT_ADAPTERS))
    return HEAD + "\n".join(rows) + "\n" + AFTER + refused + ".\n"


def _row(name: str, known: Architecture, asked: dict[str, Any]) -> Iterator[str]:
    examples = _shapes(asked, lambda other: other.blocks == known.blocks and bool(known.blocks))
    layers = dict.fromkeys(module.label for shape in examples for module in shape.linear if module.called)
    yield f"`{name}`"
    yield ", ".join(layers) or f"those of the model inside: {', '.join(sorted(known.inner.values()))}"
    yield ", ".join(known.embeddings) or "none"
    yield _experts(known, asked)
    cases = {case for model in _models(name, asked) for case in model["lookups"]}
    sizes = ", ".join(sorted(case[2:] for case in cases if case.startswith("tp")))
    yield f"TP {sizes}{', FS 4' if 'fs4' in cases else ''}{ALONE if known.alone else ''}" if cases else ""


def _models(name: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    return [model for model in asked.values() if model["config"]["architectures"] == [name]]


def _shapes(asked: dict[str, Any], alike: Callable[[Architecture], bool]) -> Iterator[ModelShape]:
    """Yield the shapes of models whose architectures are like one."""
    for config in (LLAMA_4, *(model["config"] for model in asked.values())):
        other = ARCHITECTURES.get(config["architectures"][0])
        if other is not None and alike(other):
            yield ModelShape.from_config(config, ASKED)


def _experts(known: Architecture, asked: dict[str, Any]) -> str:
    if known.experts is None:
        return "none"
    found = [shape.moe for shape in _shapes(asked, lambda other: other.experts == known.experts)]
    kinds = dict.fromkeys("3D" if moe.packed else "2D" if moe.gated else "no gate" for moe in found if moe)
    return ", ".join(kinds) or "of some models"


if __name__ == "__main__":
    PAGE.write_text(page())
