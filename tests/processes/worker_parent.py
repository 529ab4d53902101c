"""A parent for ``test_worker`` to kill: starts a child, prints its process id and waits."""

import sys
import time

from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.worker import Worker

worker = Worker(ForkServer(["worker_child"]), "worker_child", [])
pid, _ = worker.request(("pid", None), 30.0)
sys.stdout.write(f"{pid}\n")
sys.stdout.flush()
time.sleep(600)
