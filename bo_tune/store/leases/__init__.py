"""Leases that keep a study to one session, and writes that an expired lease refuses."""
