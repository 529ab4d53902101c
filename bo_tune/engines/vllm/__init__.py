"""vLLM's tuned files: their text, their keys, and what it looks up in them."""
