"""The installed SGLang's kernels. Their text alone is run: nothing of SGLang is imported."""
