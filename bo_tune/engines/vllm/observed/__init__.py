"""The lookups of a running vLLM: a plugin that records them, and code that reads its files.

``plugin``, ``hooks``, ``after_import``, ``recorder`` and ``names`` run inside the engine. They import only the standard
library, hook nothing unless ``BO_TUNE_LOOKUPS`` names a file, and switch themselves off at the first error. ``reading``
and ``problems`` run here.
"""
