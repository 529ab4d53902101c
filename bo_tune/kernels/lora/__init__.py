"""The code that the two dense multi-LoRA kernels share: token groups, inputs, launches, features."""
