"""Chunked multi-LoRA products (csgmv): tokens are sorted by adapter and cut into chunks, one per program.

The project has no kernels of its own for them. ``kernels.sglang`` launches the installed SGLang's.
"""
