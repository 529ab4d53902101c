"""How the threads of a session share the cores and the interpreter."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType

from threadpoolctl import threadpool_limits

from bo_tune.processes.importing import LateModule

SWITCH_INTERVAL_S = 0.0005
"""Time after which a computing thread gives way to others."""

ONE_BLAS_THREAD = MappingProxyType(
    dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
)
"""Environment variables that keep linear algebra on one core in processes forked from one that has imported it. To
limit it there is too late: OpenBLAS first starts one thread per core, which spin. Thirty such processes on 32 cores
held up all others for a second or two."""


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep linear algebra on the caller's core inside the context.

    Studies are the parallelism, the other cores compile, and a surrogate's matrices are small. This loads the modules
    that compute with them, because a library that is loaded later would not be limited. Only the first thread can limit
    it.
    """
    LateModule.import_all()
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let threads have the interpreter soon after they need it, inside the context.

    A thread that stores trials or answers a child needs it often, for some hundred microseconds. By default it would
    wait 5 ms each time for a thread that computes, and the GPU or a compiler would wait too.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
