"""Triton's cache with packs beside it: entries of a pack are read from a folder of their own.

A pack is used for one session. What it holds never gets into the cache that this host's engines load kernels from, and
what the session compiles itself is kept there as ever.
"""

import os
from pathlib import Path

from triton.runtime.cache import FileCacheManager

from bo_tune.measure.compile.packed import FOLDER_VARIABLE


class PackedCache(FileCacheManager):  # type: ignore[misc]
    """Triton's cache manager of one entry, in the packs' folder where that has the entry."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        packed = Path(os.environ[FOLDER_VARIABLE]) / key
        if override or dump or not packed.is_dir():
            super().__init__(key, override, dump)
            return
        self.key = key
        self.cache_dir = str(packed)
        self.lock_path = str(packed / "lock")
