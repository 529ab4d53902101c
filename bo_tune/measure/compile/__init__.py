"""Compiling on this host's cores, or finding binaries that were compiled elsewhere."""
