"""The expand half of a multi-LoRA layer: shrunk activations times each token's B."""
