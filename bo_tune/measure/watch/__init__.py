"""Watches who else uses a GPU while it measures."""
