"""Chunked multi-LoRA products (csgmv): tokens sorted by adapter, and cut into chunks that a program takes at once.

The project has no kernels of its own for them: ``kernels.sglang`` launches the installed SGLang's.
"""
