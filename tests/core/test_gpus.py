"""What is known of GPUs that are not there, and that nothing is borrowed."""

import pytest

from bo_tune.core.gpus import LIMITS, gpu_by_file_name, known_gpu, stand_in_for, target_gpu
from bo_tune.core.problem import device_file_name, lora_file_name

KIB = 1024


@pytest.mark.parametrize(
    ("name", "capability", "sm_count", "shared_memory_bytes"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448),
        ("NVIDIA H20-3e", (9, 0), 78, 232_448),
        ("NVIDIA A800-SXM4-80GB", (8, 0), 108, 166_912),
        ("NVIDIA GeForce RTX 4090", (8, 9), 128, 101_376),
        ("NVIDIA GeForce RTX 5090", (12, 0), 170, 101_376),
        ("Tesla T4", (7, 5), 40, 65_536),
    ],
)
def test_what_data_sheets_say(name: str, capability: tuple[int, int], sm_count: int, shared_memory_bytes: int) -> None:
    gpu = known_gpu(name)
    assert gpu is not None
    assert (gpu.name, gpu.capability, gpu.sm_count, gpu.shared_memory_bytes) == (
        name, capability, sm_count, shared_memory_bytes
    )  # fmt: skip
    assert gpu_by_file_name(gpu.file_name) == gpu


@pytest.mark.parametrize("name", ["AMD Instinct MI300X", "NVIDIA Z1", "NVIDIA H100", ""])
def test_nothing_is_known_of_others(name: str) -> None:
    assert known_gpu(name) is None
    assert gpu_by_file_name(lora_file_name(name)) is None


def test_a_stand_in_is_asked_for_by_that_name_and_keeps_its_own() -> None:
    assert stand_in_for("NVIDIA L4") == known_gpu("NVIDIA L4")
    gpu = stand_in_for("NVIDIA Z1")
    assert (gpu.name, gpu.sm_count) == ("NVIDIA Z1", 132)
    assert gpu.shared_memory_bytes == max(limits.shared_memory_bytes for limits in LIMITS.values())


def test_a_target_has_the_limits_of_its_capability() -> None:
    assert target_gpu((9, 0)).gpu.name == "NVIDIA H100 80GB HBM3"
    assert target_gpu((9, 0), "NVIDIA H20-3e").gpu.sm_count == 78
    blackwell = target_gpu((10, 3))
    assert blackwell.gpu.shared_memory_bytes == 227 * KIB
    assert len(blackwell.assumed) == 1
    named = target_gpu((8, 9), "NVIDIA Z1")
    assert (named.gpu.name, named.gpu.shared_memory_bytes) == ("NVIDIA Z1", 99 * KIB)
    assert "bo_tune does not know NVIDIA Z1" in named.assumed[0]
    unknown = target_gpu((11, 0))
    assert "does not know the shared memory of cuda:110" in unknown.assumed[1]
    assert unknown.gpu.capability == (11, 0)


def test_names_in_the_names_of_files_as_vllm_writes_them() -> None:
    assert lora_file_name("NVIDIA A100-SXM4-80GB") == "NVIDIA_A100_SXM4_80GB"
    assert device_file_name("NVIDIA A100-SXM4-80GB") == "NVIDIA_A100-SXM4-80GB"
    assert lora_file_name("AMD X/Y  Z") == "AMD_X/Y__Z"
    assert device_file_name("AMD X/Y  Z") == "AMD_X_Y_Z"
