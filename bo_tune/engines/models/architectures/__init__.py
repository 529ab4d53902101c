"""What vLLM wraps with LoRA in each architecture, as data."""
