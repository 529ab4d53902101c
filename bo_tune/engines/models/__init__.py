"""From a model's Hugging Face ``config.json`` and its sharding to the problems that its LoRA layers pose.

``shape`` reads the config, ``layers`` shards it, ``problems`` poses the problems. ``architectures`` holds how vLLM
builds each architecture, out of ``blocks`` and ``moe``; ``engine`` what it asks for.
"""
