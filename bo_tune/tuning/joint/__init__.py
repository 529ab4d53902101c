"""Kernels that must agree on one parameter, tuned together."""
