"""Who else uses a GPU while it measures."""
