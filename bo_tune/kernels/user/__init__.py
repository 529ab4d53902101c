"""A user's Triton kernel: what is said of it (``kernel``), what a search makes of that (``spec``), how it is run."""
