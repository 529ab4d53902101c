"""The options that name a model and the engine that serves it, or what names its lookups in their place."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from bo_tune.cli.options import DUAL_STREAM, PROBLEM, flag, integers, option
from bo_tune.core.choices import EngineChoice, LayersFrom, StreamChoice
from bo_tune.core.problem import MOST
from bo_tune.engines.models.engine import MAX_BATCHED_TOKENS, MAX_SEQUENCES
from bo_tune.errors import InputError
from bo_tune.kernels.csgmv.step import CHUNK_SIZES
from bo_tune.kernels.mamba.step import STATE_DTYPES

if TYPE_CHECKING:
    from bo_tune.engines.models.serving import ModelStudy

MOST_DRAFTED = 1024

NAME_FILES = ("model", "lookups", "adapter")
"""Options whose values may be files."""


def absolute(path: Path | str) -> str:
    """Return a path that holds in every folder; what is no path here, as an id of a model, stays as it is."""
    return str(Path(path).absolute()) if Path(path).exists() else str(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model and the engine that serves it; empty where the command line says nothing of them."""

    model: Annotated[
        str | None,
        option(PROBLEM, "PATH|ID", "Hugging Face config.json, its folder, or a model's id, instead of a study file."),
    ] = None
    lookups: Annotated[
        Path | None,
        option(
            PROBLEM,
            "FILE",
            "Recorded lookups of a running vLLM, instead of a model. BO_TUNE_LOOKUPS=FILE in its environment "
            "records them.",
        ),
    ] = None
    engine: Annotated[
        EngineChoice | None,
        option(PROBLEM, "|".join(EngineChoice), f"The engine that serves the model. Default: {EngineChoice.VLLM}."),
    ] = None
    tp: Annotated[
        int | None,
        option(
            PROBLEM,
            "N",
            "Tensor-parallel size of the served model. Default: 1.",
            "--tensor-parallel-size",
            "--tp",
            min=1,
        ),
    ] = None
    max_loras: Annotated[
        list[str] | None,
        option(PROBLEM, "N,…", "The engine's --max-loras, or SGLang's --max-loras-per-batch."),
    ] = None
    max_lora_chunk_size: Annotated[
        int | None, option(PROBLEM, "N", f"SGLang's --max-lora-chunk-size. Default: {CHUNK_SIZES[0]}.")
    ] = None
    rank: Annotated[
        list[str] | None, option(PROBLEM, "N,…", "The engine's --max-lora-rank.", "--max-lora-rank", "--rank")
    ] = None
    m: Annotated[
        list[str] | None,
        option(
            PROBLEM,
            "N,…",
            "Numbers of tokens in a step. Default: powers of two. With 'auto', tune adds those that gain enough.",
        ),
    ] = None
    fully_sharded: Annotated[
        bool, flag(PROBLEM, "The engine's --fully-sharded-loras.", "--fully-sharded-loras", "--fully-sharded")
    ] = False
    target_modules: Annotated[
        list[str] | None,
        option(
            PROBLEM,
            "NAME,…",
            "The engine's --lora-target-modules. Default: all modules that vLLM supports.",
            "--lora-target-modules",
            "--target-modules",
        ),
    ] = None
    adapter: Annotated[
        list[str] | None,
        option(
            PROBLEM,
            "PATH",
            "An adapter's adapter_config.json, or its folder. It gives the rank and the target modules if you "
            "leave those options out. If repeated, the largest rank and all modules count.",
        ),
    ] = None
    expert_parallel: Annotated[
        bool, flag(PROBLEM, "The engine's --enable-expert-parallel.", "--enable-expert-parallel", "--expert-parallel")
    ] = False
    mixed_moe_format: Annotated[
        bool,
        flag(
            PROBLEM,
            "The engine's --enable-mixed-moe-lora-format. Experts then have separate gate and up, whatever the "
            "model has.",
            "--enable-mixed-moe-lora-format",
        ),
    ] = False
    shared_moe_loras: Annotated[
        bool,
        flag(
            PROBLEM,
            "The engine's --enable-moe-shared-loras, which has the same effect on lookups.",
            "--enable-moe-shared-loras",
        ),
    ] = False
    tower_connector: Annotated[
        bool, flag(PROBLEM, "The engine's --enable-tower-connector-lora.", "--enable-tower-connector-lora")
    ] = False
    max_num_seqs: Annotated[
        int | None,
        option(
            PROBLEM,
            "N",
            f"The engine's --max-num-seqs, which is the most rows that lm_head gets. Default: {MAX_SEQUENCES}.",
            min=1,
            max=MOST,
        ),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        option(
            PROBLEM,
            "N",
            "The engine's --max-num-batched-tokens, which is the most tokens in a step. Default: "
            f"{MAX_BATCHED_TOKENS}.",
            min=1,
            max=MOST,
        ),
    ] = None
    num_speculative_tokens: Annotated[
        int | None,
        option(
            PROBLEM,
            "N",
            "Tokens drafted for each sequence: num_speculative_tokens of the engine's --speculative-config. "
            "Default: 0.",
            min=0,
            max=MOST_DRAFTED,
        ),
    ] = None
    mamba_ssm_cache_dtype: Annotated[
        str | None, option(PROBLEM, "|".join(STATE_DTYPES), "The engine's --mamba-ssm-cache-dtype, if it has one.")
    ] = None
    dual_stream: Annotated[bool, DUAL_STREAM] = False
    quantization: Annotated[
        str | None,
        option(
            PROBLEM,
            "NAME",
            "The engine's --quantization, if it differs from the checkpoint's. With moe_wna16, Triton multiplies "
            "experts of 4 and 8 bits.",
        ),
    ] = None
    derive: Annotated[
        LayersFrom | None,
        option(
            PROBLEM,
            "|".join(LayersFrom),
            "Where to find the model's layers: in the table of architectures, or in the vLLM installed here, "
            "which builds the model without its weights.",
        ),
    ] = None

    def given(self) -> list[str]:
        """Return the options that were given, as vLLM names them."""
        hints = get_type_hints(type(self), include_extras=True)
        return [_name(field.name, hints[field.name]) for field in fields(self) if getattr(self, field.name)]

    def words(self, streams: StreamChoice | None = None) -> list[str]:
        """Return the options as a command line has them, paths absolute; without ``--m``.

        Args:
            streams: how adapters are run, where an option of its own said so.
        """
        hints = get_type_hints(type(self), include_extras=True)
        found: list[str] = []
        for field in fields(self):
            value, name = getattr(self, field.name), _name(field.name, hints[field.name])
            if not value or field.name == "m":
                continue
            if value is True:
                found.append(name)
                continue
            for one in value if isinstance(value, list) else [value]:
                found += [name, absolute(one) if field.name in NAME_FILES else str(one)]
        return [*found, *(["--dual-stream"] if streams is StreamChoice.TWO else [])]

    def streams(self, wanted: StreamChoice | None) -> StreamChoice | None:
        """Return how adapters are to be run, by --streams or its older name; None where neither was given.

        Raises:
            InputError: both were.
        """
        if self.dual_stream and wanted is not None:
            raise InputError(
                "--dual-stream cannot be combined with --streams, which already says how adapters run; leave it out"
            )
        return StreamChoice.TWO if self.dual_stream else wanted

    def settings(self) -> dict[str, Any]:
        """Return what is said of the model and its engine, as arguments of ``ModelStudy.of``: nothing that is left
        open.

        Raises:
            InputError: an option holds something else than numbers.
        """
        modules = [word.strip() for text in self.target_modules or () for word in text.split(",")]
        said: dict[str, Any] = {
            "config": self.model,
            "tensor_parallel": self.tp,
            "ranks": integers(self.rank, "--max-lora-rank"),
            "max_loras": integers(self.max_loras, "--max-loras"),
            "ms": integers(self.m, "--m"),
            "fully_sharded": self.fully_sharded,
            "target_modules": list(filter(None, dict.fromkeys(modules))),
            "adapters": self.adapter,
            "expert_parallel": self.expert_parallel,
            "unpacked_experts": self.mixed_moe_format or self.shared_moe_loras,
            "tower_connector": self.tower_connector,
            "max_sequences": self.max_num_seqs,
            "max_batched_tokens": self.max_num_batched_tokens,
            "draft_tokens": self.num_speculative_tokens,
            "dual_stream": self.dual_stream,
            "engine": self.engine,
            "chunk_size": self.max_lora_chunk_size,
            "state_dtype": self.mamba_ssm_cache_dtype,
            "quantization": self.quantization,
            "derived": self.derive is LayersFrom.ENGINE,
        }
        return {name: value for name, value in said.items() if value is not None and value is not False and value != []}

    def study(self, ms: Sequence[int] = ()) -> "ModelStudy":
        """Return the model as it is served.

        Args:
            ms: tokens in a step, where the command line names none.

        Raises:
            InputError: an option is missing or wrong, or the model cannot be served like this.
        """
        if self.lookups is not None:
            raise InputError("--lookups does not work here; name a model with --model")
        if not self.model:
            raise InputError("--model: expected a config.json, its folder, or the id of a model")
        for name, value in {"--max-loras": self.max_loras, "--max-lora-rank": self.rank or self.adapter}.items():
            if not value:
                raise InputError(f"{name} is needed with --model")
        from bo_tune.engines.models.serving import ModelStudy
        from bo_tune.engines.vllm.derived import derived

        said = {"tensor_parallel": 1, "ranks": (), "ms": ms, **self.settings()}
        return derived(**said) if said.pop("derived", False) else ModelStudy.of(**said)


def _name(field: str, hint: Any) -> str:
    """Return the first name of the option of a field."""
    first = hint.__metadata__[0].default  # what typer takes for a default where it stands in an annotation
    return first if isinstance(first, str) else f"--{field.replace('_', '-')}"
