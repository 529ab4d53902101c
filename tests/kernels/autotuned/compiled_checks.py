"""What ``torch.compile`` makes of a kernel under ``bo_tune.autotune``, on a machine without a GPU.

It prints the configs that PyTorch is left to choose from, for each of some sizes. PyTorch is told that there is Triton,
Triton that there is an H100. Nothing is launched.

``python compiled_checks.py double|add_up (static|dynamic|make_fx)...``
"""

import sys
from typing import Any

import autotuned_kernels as own
import torch
import torch.utils._triton
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch.fx.experimental.proxy_tensor import make_fx
from triton.backends.compiler import GPUTarget

from bo_tune.kernels.user import frozen
from bo_tune.measure.compile.offline_driver import activate


def backend(graph: Any, inputs: Any) -> Any:
    """Tell what a graph launches."""
    for node in graph.graph.nodes:
        if "kernel_idx" in node.kwargs:
            left = [config.all_kwargs() for config in kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).configs]
            said = [" ".join(f"{name}={value}" for name, value in sorted(one.items())) for one in left]
            sys.stdout.write(f"{'; '.join(said)}\n")
    return lambda *_: [torch.empty(4)]


def made_fx(n: int) -> None:
    """Trace as custom operators are: PyTorch then calls what it else traces."""

    def call(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        torch.library.wrap_triton(own.double_kernel)[(1,)](x, y, x.numel())
        return y

    graph = make_fx(call, tracing_mode="symbolic")(torch.empty(n))
    backend(graph, None)


def main() -> None:
    """Compile, and call with several sizes."""
    torch.utils._triton.has_triton = lambda: True
    frozen.gpu_at_hand = lambda: "NVIDIA H100 80GB HBM3"
    activate(GPUTarget("cuda", 90, 32))
    name, *ways = sys.argv[1:]
    call = {"double": own.doubled, "add_up": own.added_up}[name]
    for how in ways:
        if how == "make_fx":
            for n in (1000, 2000):
                made_fx(n)
            continue
        torch.compiler.reset()
        compiled = torch.compile(call, backend=backend, fullgraph=True, dynamic=how == "dynamic")
        for n in (1000, 64000, 1000, 2000):
            compiled(torch.empty(n))


if __name__ == "__main__":
    main()
