"""A kernel that shows whether kernels can be compiled and launched at all."""

import torch
import triton
import triton.language as tl

SIZE = 1000


@triton.jit  # type: ignore[untyped-decorator]
def _add_one(source, target, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    tl.store(target + places, tl.load(source + places, mask=inside) + 1.0, mask=inside)


def is_right(device: torch.device) -> bool:
    """Compile the kernel, launch it, and say whether its result is right."""
    source = torch.arange(SIZE, dtype=torch.float32, device=device)
    target = torch.full_like(source, float("nan"))
    _add_one[(triton.cdiv(SIZE, 256),)](source, target, SIZE, BLOCK=256)
    return bool(torch.equal(target, source + 1))
