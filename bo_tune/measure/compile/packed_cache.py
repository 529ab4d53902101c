"""Triton's cache with packs beside it: entries of a pack are read from a folder of their own.

A pack is used for one session. Its content never gets into the cache from which this host's engines load kernels. The
session's own compiles are kept in that cache as usual.
"""

import os
from pathlib import Path

from triton.runtime.cache import FileCacheManager

from bo_tune.measure.compile.packed import FOLDER_VARIABLE


class PackedCache(FileCacheManager):  # type: ignore[misc]
    """Triton's cache manager for one entry. It uses the packs' folder if that has the entry."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        packed = Path(os.environ[FOLDER_VARIABLE]) / key
        if override or dump or not packed.is_dir():
            super().__init__(key, override, dump)
            return
        self.key = key
        self.cache_dir = str(packed)
        self.lock_path = str(packed / "lock")
