"""The commands of ``bo-tune``: each parses, calls, prints, and imports what it needs when it runs."""
