"""A session on GPUs of a vendor that nothing but ``rocm_backend`` and one line of the table knows.

The session, the compilers, the GPU process and the database are the real ones; kernels are compiled for a real target.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import PATIENCE_S, sqlite_url
from rocm_backend import GPU
from rocm_kernels import BREAKING, WRONG, time_us

from bo_tune.cli.packing import gpu_of
from bo_tune.core.choices import GRID
from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import InvalidReason, Measurement
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.errors import DeviceError, InputError
from bo_tune.formats.recording import read_recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.backends.registry import BACKENDS, GpuName, gpu_named
from bo_tune.measure.device import Compiled
from bo_tune.measure.devices import compilers_for, gpu_devices, job_of, replay_job
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.session.exchange import record
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.attributes import GPU_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import outcome_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("triton.backends.amd") is None, reason="needs Triton's compiler for AMD"),
]

SOURCE = "rocm_kernels"
PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
SPACE = {
    "block_m": (16, 32), "block_n": (16,), "block_k": (64,), "num_warps": (4,), "num_stages": (2, WRONG, BREAKING),
    "split_k": (8,),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(BACKENDS, "hip", "rocm_backend:Rocm")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuDevice]:
    """The only GPU of the vendor, found by counting."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    with gpu_devices(None, backend=gpu_named("hip", "--device").backend, source=SOURCE, compile_workers=1) as (gpu,):
        yield gpu


def test_a_study_is_tuned_on_its_gpu_and_recorded(device: GpuDevice, tmp_path: Path) -> None:
    store = StudyStore(sqlite_url(tmp_path / "studies.db"))
    settings = SessionSettings(GRID, None, in_flight=1, compilers=1, spaces={"lora_shrink": SPACE})
    (tuned,) = Session(store, settings).run([job_of(PROBLEM, device)])
    assert tuned.result is not None
    assert (tuned.result.config["block_m"], tuned.result.time_us) == (32, pytest.approx(10.0))
    reasons = Counter()
    for trial in tuned.trials:
        outcome = outcome_of(trial)
        assert outcome.resources.registers_per_thread, "read from its own binary"
        if isinstance(outcome, Measurement):
            assert outcome.time_us == pytest.approx(time_us(trial.params))
        else:
            reasons[outcome.reason, trial.params["num_stages"]] += 1
    assert reasons == {(InvalidReason.WRONG_RESULT, WRONG): 2, (InvalidReason.LAUNCH_ERROR, BREAKING): 2}
    assert device.provenance.keys() == {"driver", "triton", "assembler", "torch"}
    assert ", assembler 20.1 (" in tuned.name.toolchain
    (summary,) = store.summaries()
    assert summary.name == tuned.name
    assert GpuInfo.from_json(summary.attributes[GPU_ATTR]) == GPU
    store.close()
    recording = read_recording(record(tuned, tmp_path))
    assert recording.gpu == GPU
    assert replay_job(recording).device.toolchain == tuned.name.toolchain


def test_what_cannot_be_used_is_said_in_its_words() -> None:
    with pytest.raises(DeviceError, match=r"^HIP device 1 cannot be used: there is one GPU$"):
        GpuDevice(1, backend="hip", source=SOURCE, compile_workers=1)


def test_devices_are_named_by_the_table() -> None:
    assert gpu_named("hip:1", "--device") == GpuName("hip", 1)
    with pytest.raises(InputError, match=r"^--device: expected cuda, cuda:N, hip, hip:N or replay:DIR, got 'xpu'$"):
        gpu_named("xpu", "--device")


def test_binaries_are_made_for_a_target_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^--target: expected cuda:CC with .* or hip:ARCHITECTURE, like hip:gfx942, got"
    ):
        gpu_of("hip:90", None)
    gpu, spec = gpu_of("hip:gfx942", None).gpu, kernel_spec("lora_shrink")
    cache = tmp_path / "cache"
    with compilers_for(gpu, SOURCE, cache=cache, workers=1, deadline_s=PATIENCE_S, conditions=Conditions()) as target:
        config = {**spec.default_config(PROBLEM), "block_m": 64, "num_warps": 4, "num_stages": 2}
        build = target.compile(PROBLEM, config).result(PATIENCE_S)
        identity = target.identity({"lora_shrink": (PROBLEM, config)})
    assert isinstance(build, Compiled)
    assert [file for file in tmp_path.rglob("*.hsaco") if file.read_bytes().startswith(b"\x7fELF")]
    assert identity.target == "hip:gfx942"
    assert identity.toolchain.ptxas.startswith("20.1 (")
    taken = build.resources.shared_memory_bytes
    assert taken is not None
    tight = replace(gpu, shared_memory_bytes=taken)
    assert spec.impossible(config, PROBLEM, tight) is None
    assert spec.runnable([config], PROBLEM, tight).tolist() == [True]
    assert spec.impossible(config, PROBLEM, replace(tight, backend="cuda")) is not None
