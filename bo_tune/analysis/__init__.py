"""What can be learned afterwards from databases, folders and recordings."""
