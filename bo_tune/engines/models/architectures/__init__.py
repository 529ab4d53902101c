"""The modules that vLLM wraps with LoRA in each architecture, as data."""
