"""``bo_tune.autotune``: Triton's decorator, with winners that were found elsewhere.

The modules that a launch needs (``tuner``, ``misses``, ``settings``, and ``compiled`` under ``torch.compile``) load no
database. Unknown calls are written down (``described``, ``calls``), and tuned like any kernel of a user
(``definition``), in separate processes (``child``, ``bo_tune.recorded``).
"""
