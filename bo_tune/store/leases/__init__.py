"""Leases that reserve a study for one session, and writes that an expired lease refuses."""
