"""Vendors of GPUs: ``base`` says what one must answer, ``registry`` lists them, and each has a package of its own."""
