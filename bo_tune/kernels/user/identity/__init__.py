"""Which code a user's kernel is, where other processes find it, and by which name."""
