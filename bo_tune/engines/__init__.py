"""What serving engines look up, and the files in which they find it."""
