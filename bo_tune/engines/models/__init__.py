"""From a model's Hugging Face ``config.json`` and its sharding to the problems of its LoRA layers.

``shape`` reads the config, ``layers`` shards it, ``problems`` makes the problems. ``architectures`` describes how vLLM
builds each architecture from ``blocks`` and ``moe``. ``engine`` knows the sizes that an engine asks for.
"""
