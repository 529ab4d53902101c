"""Reads the plugin's files: those of one engine's processes, checked and combined."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bo_tune.core.problem import MOST
from bo_tune.engines.vllm.observed import names
from bo_tune.errors import InputError, printable
from bo_tune.files import os_error_text, read_file, shown

Size = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0)]
Shape = list[Count]


class _Line(BaseModel):
    """A line. Types are exact, and unknown fields, as of a later plugin, are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class Header(_Line):
    """The first line of a file."""

    format: Literal["bo_tune lookups"]
    version: int
    engine_version: str
    gpu: str | None
    dual_stream: bool = False
    batch_invariant: bool = False


class Launch(_Line):
    """The known facts of the launch behind a lookup. Shapes are in elements, by the names of the tensors."""

    shapes: Mapping[str, list[Shape]] = {}
    dtype: str | None = None
    max_loras: Size | None = None
    num_slices: Size | None = None
    top_k: Size | None = None


class LookupLine(_Line):
    """A lookup of a config with its arguments, and its count."""

    lookup: Literal["lora", "untuned_lora", "experts", "mamba"]
    arguments: Mapping[str, Any]
    launch: Launch | None = None
    count: Count


class _Layer(_Line):
    name: str
    weights: str | None = None
    shapes: Mapping[str, list[Shape]] = {}


class LayerLine(_Line):
    """A kind of layer that takes adapters, and the number of such layers."""

    layer: _Layer
    count: Count

    @property
    def label(self) -> str:
        """Its name without the prefix that all parts of its block share: ``qkv_proj``, ``shared_expert.down_proj``."""
        block = self.layer.name.rpartition("*.")[2]
        return (block.partition(".")[2] if "*" in self.layer.name else "") or block.rpartition(".")[2]


class _Sizes(_Line):
    tokens: Size
    padded: Size
    sequences: Count
    adapters: Count


class StepLine(_Line):
    """A size of steps, and the number of such steps."""

    step: _Sizes
    count: Count


class LeftOut(_Line):
    """Number of lookups and steps for which a full file has no line."""

    left_out: bool
    count: Count


_LINE: TypeAdapter[LookupLine | LayerLine | StepLine | LeftOut] = TypeAdapter(
    LookupLine | LayerLine | StepLine | LeftOut
)


class Step(NamedTuple):
    """The size of a step.

    Attributes:
        tokens: scheduled tokens.
        padded: tokens that the kernels saw. A CUDA graph has a size of its own.
        adapters: adapters that the sequences used.
    """

    tokens: int
    padded: int
    sequences: int
    adapters: int


@dataclass(frozen=True, slots=True)
class Observed:
    """An engine's lookups, and the sizes of its steps.

    Attributes:
        gpu: name as given by ``torch.cuda.get_device_name``; None if no process had opened one.
        layers: layers of one process. All ranks have equal ones.
        steps: number of steps by size, in all processes together.
        left_out: lookups and steps for which full files have no line.
    """

    source: Path
    files: Sequence[Path]
    engine_version: str
    gpu: str | None
    dual_stream: bool
    batch_invariant: bool
    lookups: Sequence[LookupLine]
    layers: Sequence[LayerLine]
    steps: Mapping[Step, int]
    left_out: int = 0

    def of_kind(self, *kinds: str) -> list[LookupLine]:
        """Return the lookups of some kinds."""
        return [line for line in self.lookups if line.lookup in kinds]


def read_observed(path: Path) -> Observed:
    """Read one file of the plugin, or those of all processes that were given this name.

    Raises:
        InputError: there is none, or one cannot be read or has other contents. The message is one line.
    """
    files = _files(path)
    headers, lookups, layers, left_out = [], list[LookupLine](), dict[str, LayerLine](), 0
    steps: Counter[Step] = Counter()
    for file in files:
        header, lines = _read(file)
        headers.append(header)
        for line in lines:
            if isinstance(line, LookupLine):
                lookups.append(line)
            elif isinstance(line, LayerLine):
                kind = line.layer.model_dump_json()
                layers[kind] = max(line, layers.get(kind, line), key=lambda one: one.count)
            elif isinstance(line, StepLine):
                steps[Step(**line.step.model_dump())] += line.count
            else:
                left_out += line.count
    gpus = sorted({header.gpu for header in headers if header.gpu})
    versions = sorted({header.engine_version for header in headers})
    streams = {header.dual_stream for header in headers}
    if len(gpus) > 1 or len(versions) > 1 or len(streams) > 1:
        what = gpus if len(gpus) > 1 else versions if len(versions) > 1 else ["one stream", "two streams"]
        raise InputError(
            f"{path}: expected files of one engine, got several ({', '.join(map(printable, what))}); name one file"
        )
    return Observed(
        path, files, versions[0], gpus[0] if gpus else None, streams.pop(),
        any(header.batch_invariant for header in headers), lookups, [*layers.values()], steps, left_out,
    )  # fmt: skip


def _files(path: Path) -> list[Path]:
    if path.exists():
        return [path]
    name = re.compile(rf"{re.escape(path.stem)}\.\d+(-\d+)?{re.escape(path.suffix)}")
    try:
        found = sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))
    except OSError as error:
        raise InputError(f"{path}: {os_error_text(error)}") from None
    if not found:
        raise InputError(
            f"{path}: no such file, and no file that a process wrote under this name "
            f"({path.stem}.PID{path.suffix}); an engine writes it if {names.VARIABLE} names it and bo_tune is "
            "installed in the engine's environment"
        )
    return found


def _read(file: Path) -> tuple[Header, Iterator[LookupLine | LayerLine | StepLine | LeftOut]]:
    try:
        content = read_file(file)
    except OSError as error:
        raise InputError(f"{file}: {os_error_text(error)}") from None
    first, *lines = content.split(b"\n")[:-1] or [b""]  # text after the last newline is an unfinished line
    try:
        header = Header.model_validate_json(first)
    except ValidationError:
        raise InputError(f"{file}: expected a file of lookups that bo_tune recorded in an engine") from None
    if header.version != names.VERSION:
        raise InputError(f"{file}: expected version {names.VERSION} of the format, got {header.version}")
    return header, _lines(file, lines)


def _lines(file: Path, lines: Sequence[bytes]) -> Iterator[LookupLine | LayerLine | StepLine | LeftOut]:
    for number, line in enumerate(lines, 2):
        try:
            yield _LINE.validate_json(line)
        except ValidationError:
            text = shown(line.decode(errors="replace"))
            raise InputError(f"{file}: line {number}: expected a lookup, a layer or a step, got {text}") from None
