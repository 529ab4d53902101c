"""Compiling on this host's cores, or finding what was compiled elsewhere."""
