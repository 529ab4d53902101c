"""Opens a database: its URL, its settings, and how to open one that may only be read."""
