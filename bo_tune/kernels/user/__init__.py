"""A user's Triton kernel: its definition (``kernel``), its description for a search (``spec``), and how it is run."""
