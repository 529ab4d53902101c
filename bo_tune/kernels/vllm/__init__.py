"""The kernels of an installed vLLM, found by name, launched by its own launcher and measured like the project's own."""
