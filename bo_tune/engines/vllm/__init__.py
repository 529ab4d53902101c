"""vLLM's tuned files: their text, their keys, and the lookups in them."""
