"""The base model's experts: both products of a layer under one config, as an engine looks it up.

The project has no kernel of its own for them. ``kernels.vllm.experts`` launches the installed vLLM's.
"""
