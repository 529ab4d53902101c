"""Binaries compiled before a GPU is seen."""
