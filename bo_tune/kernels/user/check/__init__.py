"""Checks whether a result is right: the reference, the tolerance, and the same data for every launch."""
