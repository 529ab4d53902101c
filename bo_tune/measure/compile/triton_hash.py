"""Makes Triton hash itself once for all compile processes, while the fork server goes on to import torch.

Otherwise each process would do so before its first compile. That is half a second of reading and hashing in all
children at the same time.
"""

from triton.runtime.cache import triton_key


def before_forking() -> None:
    """Compute the hash; Triton remembers it."""
    triton_key()
