"""The decode step of a Mamba-2 layer: one token of each sequence through the state that the engine keeps of it.

The project has no kernel of its own for it: ``kernels.vllm.mamba`` launches the installed vLLM's.
"""
