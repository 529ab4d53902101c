"""A session while it runs: what is known of it, and how that is shown."""
