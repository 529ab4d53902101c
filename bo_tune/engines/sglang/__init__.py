"""SGLang: the files in which its chunked LoRA kernels look configs up. Facts of SGLang 0.5.23."""
