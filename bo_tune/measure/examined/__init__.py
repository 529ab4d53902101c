"""Examines a host for ``bo-tune doctor``, in processes that may hang without holding anybody up."""
