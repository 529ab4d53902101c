"""The lookups of serving engines, and the files in which they find configs."""
