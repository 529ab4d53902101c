"""What databases, folders and recordings tell afterwards."""
