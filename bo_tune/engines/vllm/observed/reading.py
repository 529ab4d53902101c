"""Reading what the plugin wrote: the files of one engine's processes, checked and put together."""

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
    """A line: types are exact, and what a later plugin says besides is passed over."""

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
    """What is known of the launch that a lookup is for. Shapes are in elements, by the name of the tensors."""

    shapes: Mapping[str, list[Shape]] = {}
    dtype: str | None = None
    max_loras: Size | None = None
    num_slices: Size | None = None
    top_k: Size | None = None


class LookupLine(_Line):
    """A config that was looked up, and with what; how often it was."""

    lookup: Literal["lora", "untuned_lora", "experts", "mamba"]
    arguments: Mapping[str, Any]
    launch: Launch | None = None
    count: Count


class _Layer(_Line):
    name: str
    weights: str | None = None
    shapes: Mapping[str, list[Shape]] = {}


class LayerLine(_Line):
    """A kind of layer that takes adapters, and how many there are."""

    layer: _Layer
    count: Count

    @property
    def label(self) -> str:
        """Its name without what all parts of its block share: ``qkv_proj``, ``shared_expert.down_proj``."""
        block = self.layer.name.rpartition("*.")[2]
        return (block.partition(".")[2] if "*" in self.layer.name else "") or block.rpartition(".")[2]


class _Sizes(_Line):
    tokens: Size
    padded: Size
    sequences: Count
    adapters: Count


class StepLine(_Line):
    """A size that steps had, and how many did."""

    step: _Sizes
    count: Count


class LeftOut(_Line):
    """How many lookups and steps a full file has no line for."""

    left_out: bool
    count: Count


_LINE: TypeAdapter[LookupLine | LayerLine | StepLine | LeftOut] = TypeAdapter(
    LookupLine | LayerLine | StepLine | LeftOut
)


class Step(NamedTuple):
    """The size of a step.

    Attributes:
        tokens: that were scheduled.
        padded: that the kernels saw: a CUDA graph has a size of its own.
        adapters: that the sequences used.
    """

    tokens: int
    padded: int
    sequences: int
    adapters: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What an engine looked up, and how large its steps were.

    Attributes:
        gpu: as ``torch.cuda.get_device_name`` gives it; None where no process had opened one.
        layers: that one process had; ranks have equal ones.
        steps: how many steps had a size, all processes together.
        left_out: lookups and steps that full files have no line for.
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
    """Read a file that the plugin wrote, or those of all processes that were told this name.

    Raises:
        InputError: there is none, or one cannot be read or holds something else. One line.
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
        raise InputError(f"{path}: files of several engines ({', '.join(map(printable, what))}); name one of them")
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
            f"{path}: no such file, and none of a process that was told this name ({path.stem}.PID{path.suffix}); "
            f"an engine writes it when {names.VARIABLE} names it and bo_tune is installed where the engine is"
        )
    return found


def _read(file: Path) -> tuple[Header, Iterator[LookupLine | LayerLine | StepLine | LeftOut]]:
    try:
        content = read_file(file)
    except OSError as error:
        raise InputError(f"{file}: {os_error_text(error)}") from None
    first, *lines = content.split(b"\n")[:-1] or [b""]  # what follows the last newline was not finished
    try:
        header = Header.model_validate_json(first)
    except ValidationError:
        raise InputError(f"{file}: not a file of lookups that bo_tune recorded in an engine") from None
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
