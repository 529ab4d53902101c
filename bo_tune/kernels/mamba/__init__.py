"""The decode step of a Mamba-2 layer: one token of each sequence updates the state that the engine keeps for it.

The project has no kernel of its own for it. ``kernels.vllm.mamba`` launches the installed vLLM's.
"""
