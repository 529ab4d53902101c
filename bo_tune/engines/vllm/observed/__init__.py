"""What a running vLLM looked up: a plugin that records it, and the reading of its files.

``plugin``, ``hooks``, ``after_import``, ``recorder`` and ``names`` run inside the engine. They import the standard
library alone, hook nothing unless ``BO_TUNE_LOOKUPS`` names a file, and switch themselves off at the first error.
``reading`` and ``problems`` run here.
"""
