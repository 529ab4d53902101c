"""The identity of binaries: their toolchain, target and kernel texts. Pure data.

Processes that compile answer with it before anything else, so this module loads no validation. ``contents`` validates
it when it is read from a pack.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import MaxLen

from bo_tune.errors import printable

Text = Annotated[str, MaxLen(2000)]

_BUILD = re.compile(r"cuda_[\d.]+\.r(?P<release>[\d.]+)/compiler\.(?P<build>\d+)")
"""Part of the last line of ``ptxas --version``."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The software that compiles, as far as Triton's cache tells it apart.

    Attributes:
        triton: version of Triton.
        triton_build: digest of what Triton hashes of itself, including the compiled library.
        ptxas: digest and release of the assembler.
        python: implementation and minor version, for example ``CPython 3.12``. Each has its own library.
        environment: variables that change what is compiled.
    """

    triton: Text
    triton_build: Text
    ptxas: Text
    python: Text
    environment: Mapping[str, Text] = field(default_factory=dict)

    @property
    def assembler(self) -> str:
        """The assembler in short: the build of an NVIDIA release, ``12.8.35583870``, or else the whole text."""
        build = _BUILD.search(self.ptxas)
        return f"{build['release']}.{build['build']}" if build else self.ptxas


@dataclass(frozen=True, slots=True)
class KernelText:
    """The text of a kernel that was compiled.

    Attributes:
        source: name in studies, for example ``bo_tune 3f2a9c1e``.
        digest: Triton's own digest of the kernel's text, its place in the file, and everything that it calls.
    """

    source: Text
    digest: Text


@dataclass(frozen=True, slots=True)
class Identity:
    """Facts that must be the same where a pack is used, so that Triton finds its binaries.

    Attributes:
        target: backend and compute capability, for example ``cuda:90``.
        module: the kernel source (see ``measure.source``).
        kernels: the kernels' texts by name.
    """

    toolchain: Toolchain
    target: Text
    module: Text
    kernels: Mapping[str, KernelText]

    def difference(self, here: "Identity") -> str | None:
        """Say why a pack of this identity does not fit, in words that begin with the pack's fact; None if it fits."""
        ours, theirs = self.toolchain, here.toolchain
        compared = [
            ("holds kernels from", self.module, "the session's are from", here.module),
            ("is for", self.target, "the GPU is", here.target),
            ("was made with", ours.python, "this host has", theirs.python),
            ("was made with Triton", ours.triton, "this host has", theirs.triton),
            ("was made with the Triton build", ours.triton_build, "this host has", theirs.triton_build),
            ("was made with ptxas", ours.ptxas, "this host has", theirs.ptxas),
            ("was made with", shown(ours.environment), "this host has", shown(theirs.environment)),
        ]
        for name, text in self.kernels.items():
            its = here.kernels.get(name, KernelText("none", "none"))
            compared.append((f"holds {name} of", text.source, "this host has", its.source))
            compared.append((f"holds {name} with the text", text.digest[:12], "this host has", its.digest[:12]))
        for claim, mine, contrast, other in compared:
            if mine != other:
                return printable(f"this pack {claim} {mine}, but {contrast} {other}")
        return None


def shown(environment: Mapping[str, str]) -> str:
    """Format environment variables for a message."""
    return " ".join(f"{name}={value}" for name, value in sorted(environment.items())) or "no variables set"
