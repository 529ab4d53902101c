"""The nouns of the project: pure data that every other package uses."""
