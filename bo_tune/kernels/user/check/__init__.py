"""Whether a result is right: what it is compared with, how far it may be off; and the same data for every launch."""
