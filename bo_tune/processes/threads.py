"""How the threads of a session share the cores and the interpreter."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType

from threadpoolctl import threadpool_limits

from bo_tune.processes.importing import LateModule

SWITCH_INTERVAL_S = 0.0005
"""After how long a thread that computes gives way to others."""

ONE_BLAS_THREAD = MappingProxyType(
    dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
)
"""Variables that keep linear algebra on one core in processes that are forked from one that has imported it. Limiting
it there comes too late: OpenBLAS starts a thread for each core first, which spin, and thirty such processes on 32 cores
held up all others for a second or two."""


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep linear algebra on the caller's core while it lasts: studies are the parallelism, and the other cores
    compile. A surrogate's matrices are small.

    It loads what computes with them, for a library that is loaded later would not be limited; nor can another thread
    than the first limit it.
    """
    LateModule.import_all()
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


@contextmanager
def turns_taken_fast() -> Iterator[None]:
    """Let threads have the interpreter soon after they need it, while it lasts.

    Whoever stores or answers a child needs it for some hundred microseconds, often. By default it would wait 5 ms each
    time for a thread that computes, and the GPU or a compiler with it.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
