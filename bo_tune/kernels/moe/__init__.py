"""Fused MoE LoRA, the two-kernel path: shrink and expand for gate/up (w13) and down (w2), over tokens sorted by adapter
and expert."""
