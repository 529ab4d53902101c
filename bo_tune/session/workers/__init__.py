"""Processes that do a session's work, on this host or on others."""
