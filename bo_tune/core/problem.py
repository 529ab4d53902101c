"""Problems: what a kernel is asked to do, and on which GPU. Pure data.

There are two kinds: ``LoraProblem``, of the multi-LoRA kernels, and ``SizedProblem``, of any other kernel. Whoever
searches, measures or stores takes either (``Problem``) and asks it for its kernel, its names and its numbers alone.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log2
from typing import Any, TypeVar

DTYPES = ("bfloat16", "float16")

MOST = 2**31 - 1
"""Largest size of a kernel: its arguments are 32-bit."""

MOST_SLICES = 16
"""Layers fused into one: more than any model has."""

DEFAULT_BACKEND = "cuda"
"""The backend of a GPU that does not say: there was no other before."""

LONGEST_LABEL = 200
"""Characters of a problem's name."""

Size = bool | int | float | str
"""What a size of a ``SizedProblem`` may be."""


def check_size(name: str, size: object) -> None:
    """Raise ValueError for what cannot be a size of a kernel."""
    if type(size) is not int or not 1 <= size <= MOST:
        raise ValueError(f"{name}: expected an integer from 1 to {MOST}, got {size!r}")


@dataclass(frozen=True, slots=True)
class Problem(ABC):
    """One kernel asked to do one thing: hashable, ordered among its kind, named the same in every process.

    Attributes:
        kernel: name of the kernel.
    """

    kernel: str

    @property
    @abstractmethod
    def shape_label(self) -> str:
        """Short name of the shape, as tables show it."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the problem without its kernel; equal only for equal problems of a kernel."""

    @property
    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """What tells problems of a kernel apart, on scales where a difference of 1 matters alike: log2 of sizes."""

    def __str__(self) -> str:
        return f"{self.kernel} {self.label}"


@dataclass(frozen=True, slots=True, order=True)
class Experts:
    """The experts of a fused MoE problem. They decide on its tensors, and no engine looks anything up under them.

    Attributes:
        count: experts that a token may be routed to, on all ranks.
        top_k: experts that each token visits.
        local: experts whose weights this rank holds; 0 for all.
        shards: tensor-parallel ranks that share an adapter's rank and w2's output (fully sharded LoRAs); else 1.
        packed: whether gate and up are one tensor (weights in three dimensions). w13 then has one slice, and its i is
            that of both: twice w2's.
    """

    count: int
    top_k: int
    local: int = 0
    shards: int = 1
    packed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "local", self.local or self.count)
        for name in ("count", "top_k", "local", "shards"):
            check_size(f"experts: {name}", getattr(self, name))
        if type(self.packed) is not bool:
            raise ValueError(f"experts: packed: expected true or false, got {self.packed!r}")
        if self.top_k > self.count or self.local > self.count:
            raise ValueError(f"no more experts than there are can be visited or held: {self}")

    @property
    def label(self) -> str:
        """Short name: ``e128.top8``."""
        parts = [f"e{self.count}.top{self.top_k}"]
        parts += [f"local{self.local}"] * (self.local != self.count) + [f"shards{self.shards}"] * (self.shards > 1)
        parts += ["packed"] * self.packed
        return ".".join(parts)


@dataclass(frozen=True, slots=True, order=True)
class LoraProblem(Problem):
    """One multi-LoRA kernel asked to do one thing.

    Attributes:
        max_loras: the *engine's* number of adapter slots (``--max-loras``). The key under which the
            engine looks a config up may differ: see ``KernelSpec.table_key``.
        num_slices: fused output slices (3 for qkv, 2 for gate/up, 1 otherwise).
        m: tokens in the step.
        k: length of the product: hidden size for shrink, rank for expand. Rank for all MoE kernels.
        n: width of the product: rank for shrink, widest slice for expand. Hidden size for all MoE kernels.
        i: MoE intermediate size as sharded; None for dense kernels.
        dtype: element type of activations and weights.
        slice_sizes: width of each slice, in elements; their maximum is n.
        add_inputs: whether expand adds to its output; None where it has no meaning.
        experts: of a MoE kernel; None for dense ones.
    """

    max_loras: int
    num_slices: int
    m: int
    k: int
    n: int
    i: int | None = None
    dtype: str = "bfloat16"
    slice_sizes: tuple[int, ...] = ()
    add_inputs: bool | None = None
    experts: Experts | None = None

    def __post_init__(self) -> None:
        for name in ("max_loras", "num_slices", "m", "k", "n"):
            check_size(name, getattr(self, name))
        if self.i is not None:
            check_size("i", self.i)
        if self.num_slices > MOST_SLICES:
            raise ValueError(f"num_slices: expected at most {MOST_SLICES}, got {self.num_slices}")
        if not self.slice_sizes:
            object.__setattr__(self, "slice_sizes", (self.n,) * self.num_slices)
        for width in self.slice_sizes:
            check_size("slice_sizes", width)
        if len(self.slice_sizes) != self.num_slices or max(self.slice_sizes) != self.n:
            raise ValueError(f"slice_sizes must hold num_slices widths, the widest being n: {self}")
        if self.add_inputs is not None and type(self.add_inputs) is not bool:
            raise ValueError(f"add_inputs: expected true, false or nothing, got {self.add_inputs!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}: {self.dtype!r}")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LoraProblem":
        """Read what ``dataclasses.asdict`` and JSON made of a problem."""
        experts = stored.get("experts")
        return cls(
            **{
                **stored,
                "slice_sizes": tuple(stored.get("slice_sizes") or ()),
                "experts": None if experts is None else Experts(**experts),
            }
        )

    @property
    def shape_label(self) -> str:
        """Short name of the shape, as in the names of recordings: ``L4.s1.m16.k4096.n16``."""
        label = f"L{self.max_loras}.s{self.num_slices}.m{self.m}.k{self.k}.n{self.n}"
        return label if self.i is None else f"{label}.i{self.i}"

    @property
    def label(self) -> str:
        """Name of the problem without its kernel; equal only for equal problems of a kernel."""
        parts = [self.shape_label, self.dtype]
        if len(set(self.slice_sizes)) > 1:
            parts.append("w" + "-".join(map(str, self.slice_sizes)))
        if self.add_inputs is False:
            parts.append("overwrite")
        if self.experts is not None:
            parts.append(self.experts.label)
        return ".".join(parts)

    @property
    def numbers(self) -> dict[str, float]:
        """See the base class."""
        sizes = {"m": self.m, "k": self.k, "n": self.n, "i": self.i or 1, "max_loras": self.max_loras}
        return {**{name: log2(size) for name, size in sizes.items()}, "num_slices": float(self.num_slices)}


_SPACES_AND_SLASHES = re.compile(r"[\s/]+")

Asked = TypeVar("Asked", bound=Problem, contravariant=True)
"""The kind of problem that a kernel takes."""

_WORD = re.compile(r"[\w-]+")
"""A text that may be a size: it stands in names."""


def is_word(text: str) -> bool:
    """Say whether a text may be a size."""
    return _WORD.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class SizedProblem(Problem):
    """One kernel of a user asked to do one thing.

    Attributes:
        sizes: names and values, in the order given; numbers, truth values and words (a dtype, say).
    """

    sizes: tuple[tuple[str, Size], ...]

    def __post_init__(self) -> None:
        for name, value in self.sizes:
            if not name.isidentifier():
                raise ValueError(f"sizes of a problem need names: {name!r}")
            if not isinstance(value, (bool, int, float)) and not (isinstance(value, str) and is_word(value)):
                raise ValueError(f"a size is a number, a truth value or a word: {name} is {value!r}")
            if not isinstance(value, str) and not abs(value) <= MOST:
                raise ValueError(f"a size is a number up to {MOST}: {name} is {value!r}")
        if not self.sizes or len(dict(self.sizes)) < len(self.sizes):
            raise ValueError(f"a problem needs sizes, each name once: {self.sizes}")
        if len(self.label) > LONGEST_LABEL:
            raise ValueError(
                f"sizes of a problem take at most {LONGEST_LABEL} characters: {self.label[:LONGEST_LABEL]}…"
            )

    @property
    def shape_label(self) -> str:
        """As ``label``: ``rows=4096.cols=1024``."""
        return self.label

    @property
    def label(self) -> str:
        """See the base class."""
        return ".".join(f"{name}={value}" for name, value in self.sizes)

    @property
    def numbers(self) -> dict[str, float]:
        """See the base class. Words tell nothing here."""
        given = {name: float(value) for name, value in self.sizes if not isinstance(value, str)}
        return {name: log2(value) if value > 0 else value for name, value in given.items()}


def lora(problem: Problem) -> LoraProblem:
    """Return a problem that is of a multi-LoRA kernel. Raises TypeError for one of another."""
    if not isinstance(problem, LoraProblem):
        raise TypeError(f"not a problem of a multi-LoRA kernel: {problem}")
    return problem


def problem_from_json(stored: Mapping[str, Any]) -> Problem:
    """Read what ``dataclasses.asdict`` and JSON made of a problem of either kind."""
    if "sizes" not in stored:
        return LoraProblem.from_json(stored)
    return SizedProblem(stored["kernel"], tuple((name, value) for name, value in stored["sizes"]))


def lora_file_name(gpu: str) -> str:
    """Return a GPU's name as vLLM writes it in the names of LoRA files. A slash stays."""
    return gpu.replace(" ", "_").replace("-", "_")


def device_file_name(gpu: str) -> str:
    """Return a GPU's name as vLLM writes it in the names of its other tuned files: hyphens stay."""
    return _SPACES_AND_SLASHES.sub("_", gpu)


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """What is asked of a GPU before anything is measured on it.

    Attributes:
        name: as ``torch.cuda.get_device_name`` gives it.
        capability: compute capability, (major, minor).
        sm_count: multiprocessors.
        shared_memory_bytes: most shared memory one block may use.
        registers_per_sm: 32-bit registers of a multiprocessor.
        threads_per_sm: most resident threads of a multiprocessor.
        l2_bytes: size of the L2 cache.
        backend: what drives it (``measure.backends``): the first word of its devices and targets.
        architecture: how its compilers call it, where the capability does not say: ``gfx942``.
    """

    name: str
    capability: tuple[int, int]
    sm_count: int
    shared_memory_bytes: int
    registers_per_sm: int = 65536
    threads_per_sm: int = 2048
    l2_bytes: int = 50 * 2**20
    backend: str = DEFAULT_BACKEND
    architecture: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "GpuInfo":
        """Read what ``to_json`` and JSON made of a GPU."""
        return cls(**{**stored, "capability": tuple(stored["capability"])})

    def to_json(self) -> dict[str, Any]:
        """Return the GPU as plain values. The backend and the architecture are told where they are not as usual."""
        usual = {"backend": DEFAULT_BACKEND, "architecture": ""}
        return {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}

    @property
    def is_cuda(self) -> bool:
        """Whether CUDA drives it: only then its capability is one of NVIDIA's."""
        return self.backend == DEFAULT_BACKEND

    @property
    def target(self) -> str:
        """What its binaries are compiled for: ``cuda:90``, ``hip:gfx942``."""
        major, minor = self.capability
        return f"{self.backend}:{self.architecture or 10 * major + minor}"

    @property
    def file_name(self) -> str:
        """The name as vLLM writes it in the names of LoRA files."""
        return lora_file_name(self.name)
