"""Problems of all the kinds for which Triton compiles the LoRA kernels anew."""

from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem

SMALL = {"block_m": 16, "block_n": 32, "block_k": 32, "num_warps": 4, "num_stages": 3, "num_ctas": 1}


@st.composite
def variants(draw: st.DrawFn) -> tuple[LoraProblem, dict[str, int]]:
    kernel = draw(st.sampled_from(["lora_shrink", "lora_expand"]))
    slices = draw(st.sampled_from([1, 2, 3]))
    width = draw(st.sampled_from([16, 64, 24]))
    shrink = kernel == "lora_shrink"
    widths = (width,) * slices if shrink or draw(st.booleans()) else (width, *[16] * (slices - 1))
    problem = LoraProblem(
        kernel,
        draw(st.sampled_from([1, 4])),
        slices,
        draw(st.sampled_from([1, 16, 24, 160])),
        draw(st.sampled_from([128, 64, 100])),
        width,
        dtype=draw(st.sampled_from(["bfloat16", "float16"])),
        slice_sizes=widths,
        add_inputs=None if shrink else draw(st.sampled_from([None, True])),
    )
    config = {**SMALL, "num_stages": draw(st.sampled_from([2, 3]))}
    return problem, config | ({"split_k": 4} if shrink else {})
