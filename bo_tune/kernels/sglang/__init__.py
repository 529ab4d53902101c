"""The installed SGLang's kernels. Only their text is run; nothing of SGLang is imported."""
