"""The kernels of an installed vLLM: found by name, launched by its own launcher, measured like the project's own."""
