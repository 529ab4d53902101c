"""Has Triton hash itself once for all processes that compile, while the fork server goes on to import torch.

Each would do so before its first compile: half a second of reading and hashing, for all children at the same time.
"""

from triton.runtime.cache import triton_key


def before_forking() -> None:
    """Hash it; Triton remembers."""
    triton_key()
