"""The manifest of a pack: its contents, and what it was made for. Pure data, and its JSON.

A binary is identified by a problem and a config that use it. All problems that share the binary find it by its compile
key. The kernel is asked for that key anew where the pack is used, because keys are values of a process and have no
stable text.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, TypeAdapter, ValidationError

from bo_tune.core.outcome import InvalidReason, Resources
from bo_tune.core.problem import GpuInfo, Problem, problem_from_json
from bo_tune.errors import PackError, printable
from bo_tune.formats.pack.identity import Identity, Text

Part = TypeVar("Part")

MOST_BINARIES = 200_000
MOST_FILE_BYTES = 32 * 2**20
"""Most bytes of a file. A kernel's cubin takes some ten kB."""
MOST_FILES_EACH = 4
MOST_LAUNCHES = 16
"""Most launches of one config."""

MACHINE_CODE = (".cubin",)
"""Endings of the names of files with machine code, of one vendor after the other."""
_ENDINGS = "|".join(ending.removeprefix(".") for ending in (".json", *MACHINE_CODE))
FileName = Annotated[str, Field(pattern=rf"^[A-Za-z_][A-Za-z0-9_]{{0,149}}\.({_ENDINGS})$")]
"""Name of a file in Triton's cache. It is plain, so the file can only be in its entry's folder."""
EntryName = Annotated[str, Field(pattern=r"^[A-Z2-7]{52}$")]
"""Name of a folder in Triton's cache: a SHA-256 in base 32."""


StoredProblem = Annotated[InstanceOf[Problem], BeforeValidator(problem_from_json), PlainSerializer(asdict)]
"""A problem of any kind, as plain values."""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """The size and digest that a file of a binary must have."""

    size: Annotated[int, Field(ge=0, le=MOST_FILE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class PackedBinary:
    """A binary that was compiled, or found impossible. For a config of several launches, all of its binaries.

    Attributes:
        problem: one of the problems that use it.
        config: the config with which the problem uses it.
        compile_s: seconds of one core that compiling took.
        cubin_bytes: size of the machine code; 0 if there is none.
        entry: its folder in Triton's cache; None if there is none.
        files: the files of that folder, by name.
        more: the files of the config's other binaries, by folder.
        reason: why there is no binary.
    """

    problem: StoredProblem
    config: Mapping[Annotated[str, Field(max_length=40)], int]
    compile_s: float
    resources: Resources = Resources()
    cubin_bytes: int = 0
    entry: EntryName | None = None
    files: Annotated[Mapping[FileName, PackedFile], Field(max_length=MOST_FILES_EACH)] = field(default_factory=dict)
    reason: InvalidReason | None = None
    detail: Text = ""
    more: Annotated[
        Mapping[EntryName, Annotated[Mapping[FileName, PackedFile], Field(max_length=MOST_FILES_EACH)]],
        Field(max_length=MOST_LAUNCHES),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.entry is None) == (self.reason is None):
            raise ValueError("a binary has either an entry or a reason why there is none")
        if self.entry is None and self.more:
            raise ValueError("there are more entries, but no first one")

    @property
    def entries(self) -> dict[str, Mapping[str, PackedFile]]:
        """The files of all its folders, by folder; empty if there is no binary."""
        return {} if self.entry is None else {self.entry: self.files, **self.more}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a pack, and what it was made for.

    Attributes:
        study: name of the study that it was made for.
        gpu: the GPU for which configs were chosen. Its binaries run on every GPU of the target.
    """

    identity: Identity
    gpu: Annotated[GpuInfo, PlainSerializer(GpuInfo.to_json)]
    study: Text
    binaries: Annotated[tuple[PackedBinary, ...], Field(max_length=MOST_BINARIES)]
    format: Literal["bo_tune pack"] = "bo_tune pack"
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        unknown = {binary.problem.kernel for binary in self.binaries} - self.identity.kernels.keys()
        if unknown:
            raise ValueError(f"there are binaries of {min(unknown)}, but its text is missing")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Manifest, PackedBinary, Identity)}


def to_json(part: object) -> bytes:
    """Return a manifest, or a part of one, as JSON on one line."""
    written: bytes = _ADAPTERS[type(part)].dump_json(part)
    return written


def from_json(kind: type[Part], content: bytes) -> Part:
    """Read a manifest, or a part of one.

    Raises:
        PackError: it is malformed. The message names the place.
    """
    try:
        part: Part = _ADAPTERS[kind].validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise PackError(printable(f"{place or 'manifest'}: {first['msg']}")) from None
    return part
