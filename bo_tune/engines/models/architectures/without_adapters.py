"""Architectures that take no adapters: vLLM 0.33 serves them by a class without ``SupportsLoRA``.

Such an engine stops if it is started with ``--enable-lora``.
"""

WITHOUT_ADAPTERS = frozenset(
    {
        "AriaForConditionalGeneration", "BailingMoeV2_5ForCausalLM", "BailingMoeV3ForCausalLM",
        "BailingMoeV3VLForConditionalGeneration", "BeamForCausalLM", "BeeForConditionalGeneration",
        "BloomForCausalLM", "Cohere2MoeForCausalLM", "Cohere2VisionForConditionalGeneration", "DbrxForCausalLM",
        "DeepseekV41ForCausalLM", "DeepseekVLV2ForCausalLM", "DomynEdgeForCausalLM", "DoryForCausalLM",
        "Dots3NoteForCausalLM", "FalconForCausalLM", "FalconMambaForCausalLM", "FlintForCausalLM",
        "GPT2LMHeadModel", "GPTJForCausalLM", "Gemma3nForCausalLM", "Gemma3nForConditionalGeneration",
        "Glm5NextForCausalLM", "HCXVisionV2ForCausalLM", "HrmTextForCausalLM", "IQuestLoopCoderForCausalLM",
        "KananaVForConditionalGeneration", "KimiK25ForConditionalGeneration", "KimiK3ForConditionalGeneration",
        "KimiLinearForCausalLM", "KimiVLForConditionalGeneration", "LlavaOnevision2ForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration", "Mamba2ForCausalLM", "MambaForCausalLM", "MiMoV2FlashForCausalLM",
        "MiMoV2ForCausalLM", "MiMoV2OmniForCausalLM", "MiniMaxM3SparseForCausalLM",
        "MiniMaxM3SparseForConditionalGeneration", "Moondream3ForCausalLM", "MoonshotKimiaForCausalLM",
        "NemotronParseForConditionalGeneration", "OrionForCausalLM", "Ovis2_6ForCausalLM", "Ovis2_6_MoeForCausalLM",
        "PaddleOCRVLForConditionalGeneration", "Phi3VForCausalLM", "Phi4ForCausalLMV",
        "Qwen2AudioForConditionalGeneration", "RForConditionalGeneration", "StableLmForCausalLM",
        "Step1ForCausalLM", "Step3TextForCausalLM", "Step3VLForConditionalGeneration", "Step3p5ForCausalLM",
        "Step3p7ForConditionalGeneration", "StepVLForConditionalGeneration", "Zamba2ForCausalLM",
    }
)  # fmt: skip
"""Names as in a config's ``architectures``."""
