"""The CUDA device: a process that owns a context, and the parent's side of it."""
