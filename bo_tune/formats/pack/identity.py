"""For what binaries were made: their toolchain, target and kernel texts. Pure data.

Processes that compile answer with it before anything else, so this module loads no validation; ``contents`` validates
it where it is read from a pack.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import MaxLen

from bo_tune.errors import printable

Text = Annotated[str, MaxLen(2000)]

_BUILD = re.compile(r"cuda_[\d.]+\.r(?P<release>[\d.]+)/compiler\.(?P<build>\d+)")
"""In the last line of what ``ptxas --version`` says."""


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
