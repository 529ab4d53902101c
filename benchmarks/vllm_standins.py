"""Make vLLM's LoRA kernels importable without the rest of vLLM, from its wheel.

    pip download --no-deps vllm==0.33.0 -d WHEELS
    python benchmarks/vllm_standins.py WHEELS/vllm-0.33.0-*.whl .vllm
    PYTHONPATH=.vllm bo-tune ...

Copies the pure-Python modules of the kernels from the wheel into a folder that git ignores, and writes stand-ins
for what those import of vLLM: its environment variables, logger, platform and helpers. The modules and files that say
what an engine without tuned files runs are copied too, and those that bo_tune's plugin watches, to be read, not
imported; the kernels of the base model's experts and of Mamba are run from their text, too. With a full installation of
vLLM none of this is needed. Used by the tests too, and on GPU hosts that have torch and triton but no vLLM.
"""

import argparse
import sys
import zipfile
from pathlib import Path

PACKAGE = "vllm/lora/ops/triton_ops"
COPIED = ("fused_moe_lora_op", "kernel_utils", "lora_expand_op", "lora_kernel_metadata", "lora_shrink_op", "utils")

READ = (
    "vllm/model_executor/layers/fused_moe/fused_moe.py",
    "vllm/model_executor/layers/fused_moe/utils.py",
    "vllm/lora/layers/utils.py",
    "vllm/utils/platform_utils.py",
    "vllm/lora/model_manager.py",
    "vllm/lora/punica_wrapper/punica_gpu.py",
    "vllm/model_executor/layers/mamba/ops/mamba_ssm.py",
    "vllm/model_executor/layers/mamba/ops/triton_helpers.py",
    "vllm/v1/worker/gpu_model_runner.py",
    "vllm/v1/worker/gpu/model_runner.py",
)
SHIPPED = (
    "vllm/model_executor/layers/fused_moe/configs/",
    "vllm/model_executor/layers/mamba/ops/configs/selective_state_update/",
)
"""Where vLLM keeps the configs of the base model's experts, and Mamba's."""

STAND_INS = {
    "vllm/__init__.py": "__version__ = {version!r}\n",
    "vllm/envs.py": '''
import os

_DEFAULTS = {{"VLLM_TUNED_CONFIG_FOLDER": None}}


def __getattr__(name):
    """Read a variable whenever it is asked for: a text if it is known here, else a flag."""
    if not name.startswith("VLLM_"):
        raise AttributeError(name)
    if name in _DEFAULTS:
        return os.environ.get(name, _DEFAULTS[name])
    return os.environ.get(name, "0") == "1"
''',
    "vllm/logger.py": """
import logging


class _Logger(logging.LoggerAdapter):
    def info_once(self, message, *arguments):
        self.info(message, *arguments)

    def warning_once(self, message, *arguments):
        self.warning(message, *arguments)


def init_logger(name):
    return _Logger(logging.getLogger(name), {{}})
""",
    "vllm/platforms.py": '''
import torch


class _Platform:
    """A CUDA device, asked when it is needed."""

    def is_cuda(self):
        return torch.cuda.is_available()

    def is_device_capability(self, capability, device_id=0):
        return _number(torch.cuda.get_device_capability(device_id)) == _number(capability)

    def is_cuda_alike(self):
        return torch.cuda.is_available()

    def is_xpu(self):
        return False

    def num_compute_units(self, device_id=0):
        return torch.cuda.get_device_properties(device_id).multi_processor_count

    def has_device_capability(self, capability, device_id=0):
        return _number(torch.cuda.get_device_capability(device_id)) >= _number(capability)


def _number(capability):
    return capability if isinstance(capability, int) else 10 * capability[0] + capability[1]


current_platform = _Platform()
''',
    "vllm/triton_utils/__init__.py": "import triton\nimport triton.language as tl\n",
    "vllm/triton_utils/allocation.py": """
def set_triton_allocator(device):
    raise NotImplementedError("no tensor descriptors made by kernels without vLLM")
""",
    "vllm/distributed.py": """
def tensor_model_parallel_all_gather(tensor):
    raise NotImplementedError("one rank only without vLLM")


tensor_model_parallel_all_reduce = tensor_model_parallel_all_gather
""",
    "vllm/utils/mem_utils.py": """
import torch


def get_max_shared_memory_bytes(device=0):
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin
""",
    "vllm/utils/__init__.py": "",
    "vllm/utils/math_utils.py": "def next_power_of_2(n):\n    return 1 << max(0, n - 1).bit_length()\n",
    "vllm/utils/torch_utils.py": """
import torch


def async_tensor_h2d(data, device=None, dtype=None):
    return torch.tensor(data, dtype=dtype).to(device)


def direct_register_custom_op(**_):
    raise AttributeError("no custom ops without vLLM")
""",
    "vllm/lora/__init__.py": "",
    "vllm/lora/ops/__init__.py": "",
    f"{PACKAGE}/__init__.py": "",
}
"""Path to text, in which ``{{version}}`` and doubled braces are for ``str.format``."""


def build(wheel: Path, folder: Path) -> None:
    """Write the kernels' modules and the stand-ins.

    Args:
        wheel: a published wheel of vLLM, whose file name tells its version.
        folder: where the package ``vllm`` is written; made if it is not there.

    Raises:
        KeyError: the wheel lacks one of the modules.
    """
    version = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        shipped = [name for name in archive.namelist() if name.startswith(SHIPPED) and name.endswith(".json")]
        kernels = [f"{PACKAGE}/{name}.py" for name in COPIED]
        copied = {name: archive.read(name) for name in (*kernels, *READ, *shipped)}
    written = {name: text.format(version=version).lstrip().encode() for name, text in STAND_INS.items()}
    for name, content in {**written, **copied}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="wheel of vLLM")
    parser.add_argument("folder", type=Path, help="folder to write the package into")
    options = parser.parse_args()
    try:
        build(options.wheel, options.folder)
    except (OSError, zipfile.BadZipFile, KeyError, IndexError) as error:
        sys.exit(f"{options.wheel}: {error}")


if __name__ == "__main__":
    main()
