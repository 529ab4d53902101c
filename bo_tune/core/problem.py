"""Problems: what a kernel is asked to do, and on which GPU. Pure data.

There are two kinds: ``LoraProblem`` for the multi-LoRA kernels, and ``SizedProblem`` for any other kernel. Searching,
measuring and storing work with either (``Problem``), and use only its kernel, its names and its numbers.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log2
from typing import Any, TypeVar

DTYPES = ("bfloat16", "float16")

MOST = 2**31 - 1
"""Largest size of a kernel, whose arguments are 32-bit."""

MOST_SLICES = 16
"""Most layers fused into one: more than any model has."""

DEFAULT_BACKEND = "cuda"
"""The backend of a GPU that does not name one. It was once the only backend."""

LONGEST_LABEL = 200
"""Most characters of a problem's name."""

Size = bool | int | float | str
"""Possible types of a size of a ``SizedProblem``."""


def check_size(name: str, size: object) -> None:
    """Raise ValueError if this cannot be a size of a kernel."""
    if type(size) is not int or not 1 <= size <= MOST:
        raise ValueError(f"{name}: expected an integer from 1 to {MOST}, got {size!r}")


@dataclass(frozen=True, slots=True)
class Problem(ABC):
    """One kernel asked to do one thing. Hashable, ordered among its kind, and with the same name in every process.

    Attributes:
        kernel: name of the kernel.
    """

    kernel: str

    @property
    @abstractmethod
    def shape_label(self) -> str:
        """Short name of the shape for tables."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the problem without its kernel. Only equal problems of a kernel have equal names."""

    @property
    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """Numbers that tell problems of a kernel apart: log2 of sizes, so that a difference of 1 matters alike."""

    def __str__(self) -> str:
        return f"{self.kernel} {self.label}"


@dataclass(frozen=True, slots=True, order=True)
class Experts:
    """The experts of a fused MoE problem. They determine its tensors, but are not part of any engine's lookup.

    Attributes:
        count: experts to which a token may be routed, on all ranks.
        top_k: experts that each token visits.
        local: experts whose weights this rank holds; 0 for all.
        shards: number of tensor-parallel ranks that share an adapter's rank and w2's output (fully sharded LoRAs);
            otherwise 1.
        packed: whether gate and up are one tensor (weights in three dimensions). w13 then has one slice, and its i
            covers both: twice w2's.
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
            raise ValueError(
                f"experts: expected at most as many visited (top_k) and held (local) experts as there are, got {self}"
            )

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
        max_loras: the *engine's* number of adapter slots (``--max-loras``). The key under which the engine looks up a
            config may differ: see ``KernelSpec.table_key``.
        num_slices: fused output slices (3 for qkv, 2 for gate/up, 1 otherwise).
        m: tokens in the step.
        k: length of the product: hidden size for shrink, rank for expand. Rank for all MoE kernels.
        n: width of the product: rank for shrink, widest slice for expand. Hidden size for all MoE kernels.
        i: sharded MoE intermediate size; None for dense kernels.
        dtype: element type of activations and weights.
        slice_sizes: width of each slice, in elements; their maximum is n.
        add_inputs: whether expand adds to its output; None if it has no meaning.
        experts: experts of a MoE kernel; None for dense ones.
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
            raise ValueError(f"slice_sizes: expected num_slices widths, of which the widest is n, got {self}")
        if self.add_inputs is not None and type(self.add_inputs) is not bool:
            raise ValueError(f"add_inputs: expected true, false or nothing, got {self.add_inputs!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LoraProblem":
        """Read a problem from the JSON of ``dataclasses.asdict``."""
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
        """Name of the problem without its kernel. Only equal problems of a kernel have equal names."""
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
        """Numbers that tell problems apart, as in the base class."""
        sizes = {"m": self.m, "k": self.k, "n": self.n, "i": self.i or 1, "max_loras": self.max_loras}
        return {**{name: log2(size) for name, size in sizes.items()}, "num_slices": float(self.num_slices)}


_SPACES_AND_SLASHES = re.compile(r"[\s/]+")

Asked = TypeVar("Asked", bound=Problem, contravariant=True)
"""The kind of problem that a kernel takes."""

_WORD = re.compile(r"[\w-]+")
"""Texts that may be sizes, because they are part of names."""


def is_word(text: str) -> bool:
    """Say whether a text may be a size."""
    return _WORD.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class SizedProblem(Problem):
    """A kernel asked to do one thing, with sizes by name.

    Attributes:
        sizes: names and values, in the given order: numbers, truth values and words (a dtype, for example).
    """

    sizes: tuple[tuple[str, Size], ...]

    def __post_init__(self) -> None:
        for name, value in self.sizes:
            if not name.isidentifier():
                raise ValueError(f"expected a name for each size of a problem, got {name!r}")
            if not isinstance(value, (bool, int, float)) and not (isinstance(value, str) and is_word(value)):
                raise ValueError(f"{name}: expected a number, a truth value or a word as a size, got {value!r}")
            if not isinstance(value, str) and not abs(value) <= MOST:
                raise ValueError(f"{name}: expected a number up to {MOST}, got {value!r}")
        if not self.sizes or len(dict(self.sizes)) < len(self.sizes):
            raise ValueError(f"expected at least one size of a problem, and each name only once, got {self.sizes}")
        if len(self.label) > LONGEST_LABEL:
            raise ValueError(
                f"expected at most {LONGEST_LABEL} characters for the sizes of a problem, got "
                f"{self.label[:LONGEST_LABEL]}…"
            )

    @property
    def shape_label(self) -> str:
        """The same as ``label``: ``rows=4096.cols=1024``."""
        return self.label

    @property
    def label(self) -> str:
        """Name of the problem without its kernel: its sizes."""
        return ".".join(f"{name}={value}" for name, value in self.sizes)

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers that tell problems apart. Words are left out."""
        given = {name: float(value) for name, value in self.sizes if not isinstance(value, str)}
        return {name: log2(value) if value > 0 else value for name, value in given.items()}


def lora(problem: Problem) -> LoraProblem:
    """Return a problem as one of a multi-LoRA kernel. Raises TypeError if it belongs to another kernel."""
    if not isinstance(problem, LoraProblem):
        raise TypeError(f"expected a problem of a multi-LoRA kernel, got {problem}")
    return problem


def problem_from_json(stored: Mapping[str, Any]) -> Problem:
    """Read a problem of either kind from the JSON of ``dataclasses.asdict``."""
    if "sizes" not in stored:
        return LoraProblem.from_json(stored)
    return SizedProblem(stored["kernel"], tuple((name, value) for name, value in stored["sizes"]))


def lora_file_name(gpu: str) -> str:
    """Return a GPU's name as in vLLM's LoRA files. A slash stays."""
    return gpu.replace(" ", "_").replace("-", "_")


def device_file_name(gpu: str) -> str:
    """Return a GPU's name as in vLLM's other tuned files. Hyphens stay."""
    return _SPACES_AND_SLASHES.sub("_", gpu)


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """Facts about a GPU that are needed before anything is measured on it.

    Attributes:
        name: name as given by ``torch.cuda.get_device_name``.
        capability: compute capability, (major, minor).
        sm_count: number of multiprocessors.
        shared_memory_bytes: most shared memory that one block may use.
        registers_per_sm: 32-bit registers of a multiprocessor.
        threads_per_sm: most resident threads of a multiprocessor.
        l2_bytes: size of the L2 cache.
        backend: its backend (``measure.backends``), the first word of its devices and targets.
        architecture: its compilers' name for it, if the capability does not determine it: ``gfx942``.
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
        """Read the result of ``to_json`` from JSON."""
        return cls(**{**stored, "capability": tuple(stored["capability"])})

    def to_json(self) -> dict[str, Any]:
        """Return the GPU as plain values. Backend and architecture are left out at their defaults."""
        usual = {"backend": DEFAULT_BACKEND, "architecture": ""}
        return {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}

    @property
    def is_cuda(self) -> bool:
        """Whether CUDA drives it. Only then is its capability one of NVIDIA's."""
        return self.backend == DEFAULT_BACKEND

    @property
    def target(self) -> str:
        """The target of its binaries: ``cuda:90``, ``hip:gfx942``."""
        major, minor = self.capability
        return f"{self.backend}:{self.architecture or 10 * major + minor}"

    @property
    def file_name(self) -> str:
        """Its name as in vLLM's LoRA files."""
        return lora_file_name(self.name)
