"""Processes that work in a session's place, on this host or on others."""
