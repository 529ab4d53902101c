"""Sources that want a GPU while they are imported."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bo_tune.errors import InputError
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.importing import LateModule, import_source, import_to_fork
from bo_tune.processes.worker import Worker, WorkerDiedError

BELONGS = r'make what needs a GPU in the kernel\'s `inputs`, .* or below `if __name__ == "__main__":`'
USES = "import torch\ntorch.cuda.is_initialized = lambda: True\n"
"""As a module that has used the GPU leaves torch behind."""

WANTS = "import triton\nDEVICE = triton.runtime.driver.active.get_active_torch_device()\n"
"""As in Triton's tutorials."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="the modules would get what they want"),
]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "tutorial.py"
    yield path
    sys.modules.pop("__script_tutorial__", None)


def error_of(modules: list[str]) -> str:
    server = ForkServer(modules)
    try:
        with pytest.raises(WorkerDiedError) as raised:
            Worker(server, "worker_child", []).start()
        return str(raised.value)
    finally:
        server.close()


def test_a_module_that_uses_the_gpu_where_processes_are_forked_is_named(file: Path) -> None:
    file.write_text(USES)
    message = error_of(["json", str(file), "worker_child"])
    assert message.startswith(
        f"{file} uses the GPU while it is imported, so the processes that measure cannot use it: "
    )
    assert "\n" not in message


def test_a_module_before_it_may_tell_that_a_driver_is_used_without_torch(file: Path, tmp_path: Path) -> None:
    telling = tmp_path / "telling.py"
    telling.write_text("import sys\ndef gpu_is_in_use() -> bool:\n    return 'colorsys' in sys.modules\n")
    file.write_text("import colorsys\n")
    message = error_of([str(telling), "json", str(file), "worker_child"])
    assert message.startswith(
        f"{file} uses the GPU while it is imported, so the processes that measure cannot use it: "
    )


def test_it_may_be_used_where_none_are_forked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", torch.cuda.is_initialized)
    file.write_text(USES)
    assert import_source(str(file)).__file__ == str(file)
    with pytest.raises(InputError, match=BELONGS):
        import_to_fork(str(file))


@pytest.mark.parametrize(
    "text",
    [
        WANTS,
        "import torch\nDEVICE = torch.zeros(1, device='cuda').device\n",
        "from wanting import DEVICE\n",
        "raise RuntimeError('Triton Error [CUDA]: initialization error')\n",
    ],
)
def test_a_module_that_wants_a_gpu_and_gets_none_is_told_in_one_line(
    text: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "wanting.py").write_text(WANTS)
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.delitem(sys.modules, "wanting", raising=False)
    file.write_text(text)
    with pytest.raises(InputError, match=BELONGS) as raised:
        import_source(str(file))
    assert str(raised.value).startswith(f"{file} needs a GPU while it is imported, but there is none for it (")
    assert "\n" not in str(raised.value)
    assert error_of([str(file)]) == str(raised.value)


def test_other_errors_of_a_module_are_its_own(file: Path) -> None:
    file.write_text("import torch\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_source(str(file))
    assert error_of([str(file)]) == "ZeroDivisionError: division by zero"


def test_a_late_module_is_imported_when_something_of_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needed_late.py").write_text("VALUE = [1]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(LateModule, "names", set())
    late = LateModule("needed_late")
    assert "needed_late" not in sys.modules
    assert late.VALUE is late.VALUE
    assert sys.modules.pop("needed_late").VALUE is late.VALUE
    LateModule.import_all()
    assert "needed_late" in sys.modules
    with pytest.raises(AttributeError, match="of_no_such_name"):
        _ = late.of_no_such_name
    del sys.modules["needed_late"]
