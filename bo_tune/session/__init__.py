"""Many studies in flight over shared compilers and GPUs."""
