"""What a pack says of itself."""

from dataclasses import replace

import pytest
from helpers import H100
from hypothesis import given
from hypothesis import strategies as st
from pack_samples import IDENTITY, binary, failure

from bo_tune.core.outcome import InvalidReason, Resources
from bo_tune.errors import PackError
from bo_tune.formats.pack.contents import Manifest, PackedBinary, from_json, to_json
from bo_tune.formats.pack.identity import Identity, KernelText, Toolchain


def toolchain(**changes: object) -> Identity:
    return replace(IDENTITY, toolchain=replace(IDENTITY.toolchain, **changes))


DIFFERENT = [
    (
        replace(IDENTITY, module="other.kernels"),
        "holds kernels from bo_tune.kernels.operations, but the session's are from",
    ),
    (replace(IDENTITY, target="cuda:80"), "is for cuda:90, but the GPU is cuda:80"),
    (toolchain(python="CPython 3.11"), "was made with CPython 3.12, but this host has CPython 3.11"),
    (toolchain(triton="3.9.0"), "was made with Triton 3.6.0, but this host has 3.9.0"),
    (toolchain(triton_build="cd"), "was made with the Triton build ab, but this host has cd"),
    (toolchain(ptxas="13.4 (ef)"), "was made with ptxas 12.8 (ab), but this host has 13.4 (ef)"),
    (toolchain(environment={"A": "1"}), "was made with no variables set, but this host has A=1"),
    (
        replace(IDENTITY, kernels={"lora_shrink": KernelText("bo_tune 2", "d1")}),
        "holds lora_shrink of bo_tune 1, but this host has bo_tune 2",
    ),
    (
        replace(IDENTITY, kernels={"lora_shrink": KernelText("bo_tune 1", "d2")}),
        "holds lora_shrink with the text d1, but this host has d2",
    ),
    (replace(IDENTITY, kernels={}), "holds lora_shrink of bo_tune 1, but this host has none"),
]


@pytest.mark.parametrize(("here", "words"), DIFFERENT)
def test_each_difference_is_named(here: Identity, words: str) -> None:
    difference = IDENTITY.difference(here)
    assert difference is not None
    assert difference.startswith(f"this pack {words}")
    assert "\n" not in difference


def test_a_host_with_more_kernels_is_no_difference() -> None:
    more = {**IDENTITY.kernels, "lora_expand": KernelText("bo_tune 7", "d7")}
    assert IDENTITY.difference(IDENTITY) is None
    assert IDENTITY.difference(replace(IDENTITY, kernels=more)) is None


@given(
    st.lists(st.integers(0, 2**40), max_size=3),
    st.floats(0, 1e4),
    st.sampled_from([None, *InvalidReason]),
    st.text(max_size=80),
)
def test_what_is_written_is_read_again(numbers: list[int], compile_s: float, reason: InvalidReason, text: str) -> None:
    resources = Resources(*numbers)
    one = replace(
        failure() if reason else binary(), compile_s=compile_s, resources=resources, reason=reason, detail=text
    )
    manifest = Manifest(toolchain(environment={"A": text}), H100, text, (one, binary()))
    assert from_json(Manifest, to_json(manifest)) == manifest
    assert from_json(PackedBinary, to_json(one)) == one
    assert b"\n" not in to_json(one)
    assert from_json(Identity, to_json(manifest.identity)) == manifest.identity


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"", "manifest: Invalid JSON"),
        (b"{}", "identity: Field required"),
        (to_json(Manifest(IDENTITY, H100, "s", (binary(),))).replace(b'"version":1', b'"version":2'), "version:"),
        (to_json(Manifest(IDENTITY, H100, "s", (binary(),))).replace(b"bo_tune pack", b"zip"), "format:"),
        (to_json(Manifest(IDENTITY, H100, "s", (binary(),))).replace(b'"m":16', b'"m":-1'), "binaries.0.problem"),
        (
            to_json(Manifest(IDENTITY, H100, "s", (binary(),))).replace(b'"lora_shrink":', b'"other":'),
            "there are binaries of lora_shrink",
        ),
    ],
)
def test_a_malformed_manifest_is_one_line_with_the_place(text: bytes, place: str) -> None:
    with pytest.raises(PackError) as caught:
        from_json(Manifest, text)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_binary_is_there_or_has_a_reason() -> None:
    for entry, reason in ((None, None), ("A" * 52, InvalidReason.COMPILE_ERROR)):
        with pytest.raises(ValueError, match="either"):
            PackedBinary(binary().problem, {}, 1.0, entry=entry, reason=reason)
    with pytest.raises(ValueError, match="there are more entries, but no first one"):
        PackedBinary(binary().problem, {}, 1.0, reason=InvalidReason.COMPILE_ERROR, more={"B" * 52: {}})


@pytest.mark.parametrize(
    ("ptxas", "short"),
    [
        ("Build cuda_12.8.r12.8/compiler.35583870_0 (0123456789abcdef)", "12.8.35583870"),
        ("12.8 (ab)", "12.8 (ab)"),
    ],
)
def test_an_assembler_is_named_in_short(ptxas: str, short: str) -> None:
    assert Toolchain("3.6.0", "ab", ptxas, "CPython 3.12").assembler == short
