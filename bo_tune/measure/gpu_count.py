"""A child process that counts GPUs, for a parent that does not load torch."""

import torch

from bo_tune.processes.worker import serve


def main(_arguments: list[str], fd: int) -> None:
    """Answer every request with the number of NVIDIA GPUs."""
    serve(fd, lambda _: torch.cuda.device_count())
