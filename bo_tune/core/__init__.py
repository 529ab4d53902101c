"""The nouns of the project: pure data that every other package speaks of."""
