"""Files that people hand over: study files, recordings, packs."""
