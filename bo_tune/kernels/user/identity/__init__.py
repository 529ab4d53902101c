"""Identifies a user's kernel: its code, its home for other processes, and its name."""
