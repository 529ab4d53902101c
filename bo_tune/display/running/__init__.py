"""A running session: what is known of it, and how it is shown."""
