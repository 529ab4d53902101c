"""A GPU: the process that owns its context, and the parent's side of it."""
