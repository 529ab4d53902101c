"""Fused MoE LoRA on the two-kernel path: shrink and expand for gate/up (w13) and down (w2).

Tokens are sorted by adapter and expert.
"""
