"""From a model's Hugging Face ``config.json`` and its sharding to the problems that its LoRA layers pose.

``shape`` reads the config, ``layers`` shards it, ``problems`` poses the problems. ``architectures`` holds how vLLM
builds each architecture, out of ``blocks`` and ``moe``; ``engine`` what it asks for.
"""

from bo_tune.models.experts import MOE_KERNELS
from bo_tune.models.layers import LoraLayer
from bo_tune.models.moe import MoeShape
from bo_tune.models.problems import DENSE_KERNELS, EXPAND, SHRINK, lookup_of, problems_by_layer
from bo_tune.models.serving import ModelStudy
from bo_tune.models.shape import ModelShape

__all__ = [
    "DENSE_KERNELS",
    "EXPAND",
    "MOE_KERNELS",
    "SHRINK",
    "LoraLayer",
    "ModelShape",
    "ModelStudy",
    "MoeShape",
    "lookup_of",
    "problems_by_layer",
]
