"""Packs: files of binaries compiled ahead, on any host, for a GPU elsewhere."""
