"""How many GPUs this host has: asked of a process that loads torch for it."""

from bo_tune.errors import DeviceError
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.worker import Worker, WorkerDiedError, WorkerTimeoutError

COUNT_MODULE = "bo_tune.measure.gpu_count"

ASK_WITHOUT_A_CONTEXT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Has torch ask the driver's management library whether there is a GPU: a source that asks on import, as vLLM does,
must leave no CUDA context behind for children to inherit."""

ANSWER_TIMEOUT_S = 180.0


def gpu_count(server: ForkServer) -> int:
    """Return how many NVIDIA GPUs this host has, as torch counts them. Raises DeviceError."""
    counter = Worker(server, COUNT_MODULE, [])
    try:
        count: int = counter.request(None, ANSWER_TIMEOUT_S)
    except (WorkerDiedError, WorkerTimeoutError) as error:
        raise DeviceError(f"the GPUs of this host cannot be counted: {error}") from error
    finally:
        counter.kill()
    return count


def host_gpu_count() -> int:
    """Return how many NVIDIA GPUs this host has, where none is open. Raises DeviceError."""
    server = ForkServer([COUNT_MODULE], ASK_WITHOUT_A_CONTEXT)
    try:
        return gpu_count(server)
    finally:
        server.close()
