"""Opening a database: its URL, its settings, and one that may only be read."""
