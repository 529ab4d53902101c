"""``bo_tune.autotune``: Triton's decorator, with winners that were found elsewhere.

What a launch needs (``tuner``, ``misses``, ``settings``, and ``compiled`` under ``torch.compile``) loads no database.
What is not known is written down (``described``, ``calls``), and tuned as any kernel of a user is (``definition``), in
processes of their own (``child``, ``bo_tune.recorded``).
"""
