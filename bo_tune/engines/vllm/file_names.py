"""The names of the files in which vLLM looks up LoRA configs: ``{gpu}_SHRINK.json``."""

FOLDER_VARIABLE = "VLLM_TUNED_CONFIG_FOLDER"
"""Names the folder of tuned files to vLLM, including those of the base model's experts."""

FILE_STEMS = {
    "SHRINK": 5,
    "EXPAND_TRUE": 5,
    "EXPAND_FALSE": 5,
    "FUSED_MOE_LORA_W13_SHRINK": 6,
    "FUSED_MOE_LORA_W13_EXPAND": 6,
    "FUSED_MOE_LORA_W2_SHRINK": 6,
    "FUSED_MOE_LORA_W2_EXPAND": 6,
}
"""Stems of the files that vLLM looks for, which follow the GPU's name, with their numbers of levels."""


def table_file_name(gpu_file_name: str, file_stem: str) -> str:
    """Return the name of a file: ``NVIDIA_H100_80GB_HBM3_SHRINK.json``."""
    return f"{gpu_file_name}_{file_stem}.json"


def split_file_name(name: str) -> tuple[str, str] | None:
    """Return the GPU's name and the stem of a file's name, or None if vLLM would never load it."""
    for stem in sorted(FILE_STEMS, key=len, reverse=True):
        gpu = name.removesuffix(f"_{stem}.json")
        if gpu and gpu != name:
            return gpu, stem
    return None
