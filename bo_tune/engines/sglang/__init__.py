"""SGLang: the files in which its chunked LoRA kernels look up configs. Facts of SGLang 0.5.23."""
