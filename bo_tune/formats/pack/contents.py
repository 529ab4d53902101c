"""What a pack says of itself: for what it was made, and what is in it. Pure data, and its JSON.

A binary is known by a problem and a config that use it. The compile key, by which all problems that share the binary
find it, is asked of the kernel anew where the pack is used: keys are values of a process and need no stable text.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, TypeAdapter, ValidationError

from bo_tune.core.outcome import InvalidReason, Resources
from bo_tune.core.problem import GpuInfo, Problem, problem_from_json
from bo_tune.errors import PackError, printable

Part = TypeVar("Part")

_BUILD = re.compile(r"cuda_[\d.]+\.r(?P<release>[\d.]+)/compiler\.(?P<build>\d+)")
"""In the last line of what ``ptxas --version`` says."""

MOST_BINARIES = 200_000
MOST_FILE_BYTES = 32 * 2**20
"""A kernel's cubin takes some ten kB."""
MOST_FILES_EACH = 4
MOST_LAUNCHES = 16
"""Of one config."""

Text = Annotated[str, Field(max_length=2000)]
MACHINE_CODE = (".cubin",)
"""How the names of files end that hold machine code, one vendor's after the other's."""
_ENDINGS = "|".join(ending.removeprefix(".") for ending in (".json", *MACHINE_CODE))
FileName = Annotated[str, Field(pattern=rf"^[A-Za-z_][A-Za-z0-9_]{{0,149}}\.({_ENDINGS})$")]
"""Of a file in Triton's cache: a plain name, so that it can only lie in its entry's folder."""
EntryName = Annotated[str, Field(pattern=r"^[A-Z2-7]{52}$")]
"""Of a folder in Triton's cache: a SHA-256 in base 32."""


StoredProblem = Annotated[InstanceOf[Problem], BeforeValidator(problem_from_json), PlainSerializer(asdict)]
"""A problem of whatever kind, as plain values."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What compiles, as far as Triton's cache tells apart.

    Attributes:
        triton: its version.
        triton_build: digest of what Triton hashes of itself, the compiled library included.
        ptxas: digest and release of the assembler.
        python: implementation and minor version, for example ``CPython 3.12``; each has a library of its own.
        environment: variables that change what is compiled.
    """

    triton: Text
    triton_build: Text
    ptxas: Text
    python: Text
    environment: Mapping[str, Text] = field(default_factory=dict)

    @property
    def assembler(self) -> str:
        """The assembler in short: the build of an NVIDIA release, ``12.8.35583870``, or what there is."""
        build = _BUILD.search(self.ptxas)
        return f"{build['release']}.{build['build']}" if build else self.ptxas


@dataclass(frozen=True, slots=True)
class KernelText:
    """Which text of a kernel was compiled.

    Attributes:
        source: as studies name it, for example ``bo_tune 3f2a9c1e``.
        digest: Triton's own, over the kernel's text, place in its file and whatever it calls.
    """

    source: Text
    digest: Text


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be the same where a pack is used, for Triton to find its binaries.

    Attributes:
        target: backend and compute capability, for example ``cuda:90``.
        module: the kernel source, see ``measure.source``.
        kernels: the kernels' text by name.
    """

    toolchain: Toolchain
    target: Text
    module: Text
    kernels: Mapping[str, KernelText]

    def difference(self, here: "Identity") -> str | None:
        """Say how a pack of this identity does not fit, in words that begin with what the pack has; None if it fits."""
        ours, theirs = self.toolchain, here.toolchain
        compared = [
            ("is of the kernels in", self.module, "the session's are in", here.module),
            ("is for", self.target, "the GPU is", here.target),
            ("was made with", ours.python, "this is", theirs.python),
            ("was made with Triton", ours.triton, "this is", theirs.triton),
            ("was made with the Triton build", ours.triton_build, "this is", theirs.triton_build),
            ("was made with ptxas", ours.ptxas, "this is", theirs.ptxas),
            ("was made with", shown(ours.environment), "here is", shown(theirs.environment)),
        ]
        for name, text in self.kernels.items():
            its = here.kernels.get(name, KernelText("none", "none"))
            compared.append((f"holds {name} of", text.source, "this is", its.source))
            compared.append((f"holds {name} with the text", text.digest[:12], "this is", its.digest[:12]))
        for claim, mine, contrast, other in compared:
            if mine != other:
                return printable(f"{claim} {mine}, {contrast} {other}")
        return None


def shown(environment: Mapping[str, str]) -> str:
    """Show variables in a message."""
    return " ".join(f"{name}={value}" for name, value in sorted(environment.items())) or "no variable set"


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file of a binary: what it must be like."""

    size: Annotated[int, Field(ge=0, le=MOST_FILE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class PackedBinary:
    """A binary that was compiled, or found impossible; of a config of several launches all of its binaries.

    Attributes:
        problem: one of those that use it.
        config: with which the problem uses it.
        compile_s: seconds of one core that compiling took.
        cubin_bytes: size of the machine code; 0 where there is none.
        entry: its folder in Triton's cache; None where there is none.
        files: of that folder, by name.
        more: the same of the config's other binaries, by folder.
        reason: why there is none.
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
            raise ValueError("there is no entry, and more of them")

    @property
    def entries(self) -> dict[str, Mapping[str, PackedFile]]:
        """The files of all its folders, by folder; none where there is no binary."""
        return {} if self.entry is None else {self.entry: self.files, **self.more}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a pack, and for what it was made.

    Attributes:
        study: name of the study it was made for.
        gpu: the GPU that configs were chosen for. Its binaries run on every GPU of the target.
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
            raise ValueError(f"there are binaries of {min(unknown)}, whose text is not told")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Manifest, PackedBinary, Identity)}


def to_json(part: object) -> bytes:
    """Return a manifest, or a part of one, as it is written: on one line."""
    written: bytes = _ADAPTERS[type(part)].dump_json(part)
    return written


def from_json(kind: type[Part], content: bytes) -> Part:
    """Read a manifest, or a part of one.

    Raises:
        PackError: it is malformed; the message names the place.
    """
    try:
        part: Part = _ADAPTERS[kind].validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise PackError(printable(f"{place or 'manifest'}: {first['msg']}")) from None
    return part
