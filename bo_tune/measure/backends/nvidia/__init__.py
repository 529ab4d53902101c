"""NVIDIA's GPUs, through CUDA."""
