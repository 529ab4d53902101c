"""The shrink half of a multi-LoRA layer: activations times each token's A."""
