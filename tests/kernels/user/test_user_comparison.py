"""What counts as a right result: rounding noise of its type does, and each kind of wrong result that there is not."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bo_tune.errors import InputError
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user.check.comparison import relative_of, right_output
from bo_tune.kernels.user.check.tolerance import Tolerance

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)
SMALL_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64)
SHAPES = ((1,), (7,), (10_000,), (64, 1), (3, 40), (128, 96), (4, 5, 6, 33))


def judged(
    output: torch.Tensor,
    reference: torch.Tensor,
    ignored: torch.Tensor | None = None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - frozen
) -> Verdict:
    return right_output("y", torch.empty_like(output), reference, ignored, tolerance).judge(output)


def is_right(output: torch.Tensor, reference: torch.Tensor) -> bool:
    return not judged(output, reference).wrong


def drawn(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(FLOATS + SMALL_FLOATS),
    exponent=st.integers(-3, 3),
)
def test_the_rounding_of_a_type_is_right(seed: int, shape: tuple[int, ...], dtype: torch.dtype, exponent: int) -> None:
    """The exact result, rounded after an error of a step of its type; in rows of very different size."""
    rows = 10.0 ** torch.linspace(0, exponent, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    exact = drawn(seed, shape) * rows
    noise = drawn(seed + 1, shape).clamp(-2, 2) * torch.finfo(dtype).eps / 2
    assert is_right((exact * (1 + noise)).to(dtype), exact)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert is_right((exact * (1 + noise)).to(dtype), exact.to(wide))


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), dtype=st.sampled_from(COMPLEX), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_rounding_of_complex_numbers_is_right_even_where_a_part_cancels_out(
    seed: int, dtype: torch.dtype, scale: float
) -> None:
    exact = torch.complex(drawn(seed, (40, 50)), scale * drawn(seed + 1, (40, 50)))
    eps = torch.finfo(dtype).eps
    noise = torch.complex(drawn(seed + 2, (40, 50)), drawn(seed + 3, (40, 50))) * exact.abs() * eps
    assert is_right((exact + noise).to(dtype), exact)


def products(dtype: torch.dtype, round_to: Callable[[torch.Tensor], torch.Tensor], k: int) -> tuple[torch.Tensor, ...]:
    """A product of matrices, with operands rounded as tensor cores do, and the exact one."""
    a, b = drawn(1, (200, k), torch.float32), drawn(2, (k, 300), torch.float32)
    if dtype != torch.float32:
        a, b = a.to(dtype).float(), b.to(dtype).float()
    honest = (round_to(a).double() @ round_to(b).double()).to(dtype)
    return honest, (a.double() @ b.double()).float()


def truncated_to_tf32(values: torch.Tensor) -> torch.Tensor:
    return (values.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("k", [64, 4096])
def test_a_product_in_tf32_is_right_though_its_sums_cancel_out(k: int) -> None:
    verdict = judged(*products(torch.float32, truncated_to_tf32, k))
    assert not verdict.wrong
    assert verdict.error is not None
    assert 1e-4 < verdict.error < relative_of(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [64, 4096])
def test_a_product_of_16_bits_is_right(dtype: torch.dtype, k: int) -> None:
    honest, exact = products(dtype, lambda values: values, k)
    assert is_right(honest, exact)
    assert is_right(honest, exact.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shares_of_a_product_that_are_joined_in_16_bits_are_right(dtype: torch.dtype) -> None:
    a, b = drawn(1, (200, 512), dtype).float(), drawn(2, (512, 300), dtype).float()
    shares = [(a[:, at : at + 64] @ b[at : at + 64]).to(dtype) for at in range(0, 512, 64)]
    joined = shares[0]
    for share in shares[1:]:
        joined = joined + share
    assert is_right(joined, a @ b)


def test_what_cancels_out_altogether_may_be_noise() -> None:
    """Rows whose exact result is nothing, in sums of float32: of another order, another noise."""
    a, b = drawn(1, (64, 512), torch.float32), drawn(2, (512, 64), torch.float32)
    a[10:30, 256:] = -a[10:30, :256]
    b[256:] = b[:256]
    assert is_right(a.flip(1) @ b.flip(0), a.double() @ b.double())
    assert is_right(a.flip(1) @ b.flip(0), (a.double() @ b.double()).float())


def test_small_numbers_beside_large_ones_are_right_as_far_as_they_are_near() -> None:
    exact = torch.softmax(30 * drawn(1, (64, 500)), dim=1)
    for dtype in FLOATS[1:]:
        assert is_right(torch.exp(torch.log(exact).float()).to(dtype), exact)
        assert is_right(exact.to(dtype), exact.float())


WRONG: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {}


def wrong(make: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    WRONG[make.__name__.replace("_", " ")] = make
    return make


@wrong
def a_wrong_imaginary_part() -> tuple[torch.Tensor, torch.Tensor]:
    right = torch.complex(drawn(1, (1000,), torch.float32), drawn(2, (1000,), torch.float32))
    return right.conj().resolve_conj(), right


@wrong
def one_wrong_imaginary_part() -> tuple[torch.Tensor, torch.Tensor]:
    right = torch.complex(drawn(1, (1000,), torch.float32), drawn(2, (1000,), torch.float32))
    output = right.clone()
    output[500] += 0.1j
    return output, right


@wrong
def argmax_off_by_one() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (100, 1000)).argmax(dim=1)
    output = right.clone()
    output[7] += 1
    return output, right


@wrong
def one_wrong_truth_value_of_ten_thousand() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (10_000,)) > 0
    output = right.clone()
    output[1234] ^= True
    return output, right


@wrong
def a_range_that_begins_at_one() -> tuple[torch.Tensor, torch.Tensor]:
    right = torch.arange(100_000, dtype=torch.float32)
    return right + 1, right


@wrong
def a_small_row_lost() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (4096, 64), torch.float32)
    right[17] *= 1e-3
    output = right.clone()
    output[17] = 0
    return output, right


@wrong
def a_small_row_lost_of_16_bits() -> tuple[torch.Tensor, torch.Tensor]:
    output, right = a_small_row_lost()
    return output.bfloat16(), right


@wrong
def a_small_column_lost() -> tuple[torch.Tensor, torch.Tensor]:
    output, right = a_small_row_lost()
    return output.T.contiguous(), right.T.contiguous()


@wrong
def a_small_tile_lost() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (512, 512), torch.float32)
    right[64:96, 128:160] *= 1e-3
    output = right.clone()
    output[64:96, 128:160] = 0
    return output, right


@wrong
def one_tile_of_ten_thousand_lost() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (1600, 1600), torch.float32)
    output = right.clone()
    output[160:176, 32:48] = 0
    return output, right


@wrong
def single_precision_for_double() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (100, 100))
    return right.float().double(), right


@wrong
def a_share_too_much() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (100, 100), torch.float32)
    return right * 1.003, right


@wrong
def one_element_of_another_sign() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (1000, 1000), torch.float32) + 3
    output = right.clone()
    output[3, 4] *= -1
    return output, right


@wrong
def an_element_never_written() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (1000,), torch.float32)
    output = right.clone()
    output[3] = torch.nan
    return output, right


@wrong
def a_number_for_infinity() -> tuple[torch.Tensor, torch.Tensor]:
    output = drawn(1, (1000,), torch.float32)
    right = output.clone()
    right[3] = -torch.inf
    return output, right


@wrong
def infinity_of_the_other_sign() -> tuple[torch.Tensor, torch.Tensor]:
    output, right = a_number_for_infinity()
    output[3] = torch.inf
    return output, right


@wrong
def infinity_for_a_number() -> tuple[torch.Tensor, torch.Tensor]:
    right, output = a_number_for_infinity()
    return output, right


@wrong
def a_number_for_nan() -> tuple[torch.Tensor, torch.Tensor]:
    right, output = an_element_never_written()
    return right, output


@wrong
def anything_for_zeros() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((100,), 1e-20), torch.zeros(100)


@wrong
def an_element_beside_one_that_is_huge() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (1000,), torch.float32)
    right[0] = 1e30
    output = right.clone()
    output[999] += 1
    return output, right


@wrong
def huge_numbers_whose_squares_overflow() -> tuple[torch.Tensor, torch.Tensor]:
    right = 1e30 * drawn(1, (1000,), torch.float32)
    return right.flip(0), right


@wrong
def a_masked_row_with_one_wrong_element() -> tuple[torch.Tensor, torch.Tensor]:
    right = drawn(1, (64, 64), torch.float32).masked_fill(torch.ones(64, 64).triu(1).bool(), -torch.inf)
    output = right.clone()
    output[0, 0] += 0.5
    return output, right


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_found_and_told_in_one_line(kind: str) -> None:
    output, right = WRONG[kind]()
    assert is_right(right.to(output.dtype), right)
    verdict = judged(output, right)
    assert verdict.wrong.startswith("y: ")
    assert "\n" not in verdict.wrong


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from((*FLOATS, torch.complex64)),
    shape=st.sampled_from([(40, 50), (2000,), (3, 20, 30)]),
    place=st.floats(0, 0.999),
    by=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.5, 3.0]),
)
def test_an_element_that_is_wrong_by_half_its_size_is_found_wherever_it_is(
    seed: int, dtype: torch.dtype, shape: tuple[int, ...], place: float, by: float
) -> None:
    right = drawn(seed, shape).to(dtype)
    number = int(place * right.numel())
    right.view(-1)[number] = 1.0
    output = right.clone()
    output.view(-1)[number] *= by
    verdict = judged(output, right)
    assert verdict.wrong.startswith("y: 1 of")
    assert str([*torch.unravel_index(torch.tensor(number), shape)]).replace("tensor(", "").replace(")", "") in (
        verdict.wrong
    )


@settings(max_examples=80)
@given(
    dtype=st.sampled_from((torch.bool, *INTEGERS)), seed=st.integers(0, 1000), place=st.integers(0, 99), data=st.data()
)
def test_integers_and_truth_values_are_exact(dtype: torch.dtype, seed: int, place: int, data: st.DataObject) -> None:
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    values = data.draw(st.lists(st.integers(low, high), min_size=100, max_size=100))
    right = torch.tensor(values, dtype=dtype)
    assert judged(right.clone(), right) == Verdict(0.0)
    other = [*values[:place], values[place] - 1 if values[place] > low else high, *values[place + 1 :]]
    verdict = judged(torch.tensor(other, dtype=dtype), right)
    assert verdict.wrong.startswith(f"y: 1 of 100 elements are wrong; the first at [{place}] is ")


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinities_in_their_places_are_right(dtype: torch.dtype) -> None:
    right = drawn(1, (64, 64), dtype).masked_fill(torch.ones(64, 64).triu(1).bool(), -torch.inf)
    right[5, 5] = torch.nan
    right[6, 6] = torch.inf
    noise = 1 + drawn(2, (64, 64)) * torch.finfo(dtype).eps / 2
    verdict = judged((right.double() * noise).to(dtype), right)
    assert not verdict.wrong
    assert verdict.error is not None
    assert 0 < verdict.error < relative_of(dtype)


@pytest.mark.parametrize("dtype", [*FLOATS, *SMALL_FLOATS, torch.complex64, torch.int32, torch.bool])
def test_nothing_but_zeros_is_right_where_zeros_are_asked_for(dtype: torch.dtype) -> None:
    assert judged(torch.zeros(100, dtype=dtype), torch.zeros(100, dtype=dtype)) == Verdict(0.0)
    wrong = torch.zeros(100)
    wrong[3] = 1
    verdict = judged(wrong.to(dtype), torch.zeros(100, dtype=dtype))
    assert verdict.wrong.startswith("y: 1 of 100 elements are wrong; the first at [3] is ")
    assert verdict.error is None


@pytest.mark.parametrize("shape", [(0,), (0, 5), ()])
def test_outputs_of_no_or_one_element(shape: tuple[int, ...]) -> None:
    assert judged(torch.ones(shape), torch.ones(shape)) == Verdict(0.0)
    if not shape:
        assert judged(torch.tensor(2.0), torch.tensor(1.0)).wrong.endswith("the first is 2.0, but should be 1.0")


def test_what_is_flushed_to_zero_is_right() -> None:
    faint = torch.full((100,), 1e-40)
    assert is_right(torch.zeros(100), faint)
    assert is_right(torch.zeros(100, dtype=torch.bfloat16), faint)
    assert is_right(torch.full((100,), 6e-8).half(), torch.full((100,), 1.2e-7).half())


def test_what_is_ignored_may_be_anything_and_counts_for_nothing() -> None:
    right, ignored = drawn(1, (64, 64), torch.float32), torch.zeros(64, 64, dtype=torch.bool)
    ignored[:, 50:] = True
    right[ignored] = 1e30
    output = right.clone()
    output[:, 50:] = torch.nan
    assert judged(output, right, ignored) == Verdict(0.0)
    output[3, 3] += 0.5
    assert judged(output, right, ignored).wrong.startswith("y: 1 of 4096 elements are wrong; the first at [3, 3]")
    whole, other = torch.arange(4096).view(64, 64), torch.arange(4096).view(64, 64).clone()
    other[ignored] = 0
    assert judged(other, whole, ignored) == Verdict(0.0)
    other[0, 1] = 0
    assert judged(other, whole, ignored).wrong


def test_a_tolerance_may_be_given() -> None:
    right = drawn(1, (100, 100), torch.float32)
    assert not judged(right * 1.05, right, tolerance=Tolerance(relative=0.1)).wrong
    assert judged(right * 1.05, right, tolerance=Tolerance(relative=0.01)).wrong
    assert judged(right + 1e-9, right, tolerance=Tolerance(relative=0.0)).wrong
    assert not judged(right + 0.5, right, tolerance=Tolerance(absolute=0.5)).wrong
    assert not judged(torch.full((9,), 1e-9), torch.zeros(9), tolerance=Tolerance(absolute=1e-8)).wrong


def test_integers_are_judged_by_an_absolute_tolerance_and_truth_values_by_none() -> None:
    right = torch.arange(-100, 100, dtype=torch.int8)
    assert not judged(right + 1, right, tolerance=Tolerance(absolute=1)).wrong
    assert judged(right + 2, right, tolerance=Tolerance(absolute=1)).wrong
    assert judged(right + 1, right, tolerance=Tolerance(relative=0.5)).wrong
    truth = right > 0
    assert judged(~truth, truth, tolerance=Tolerance(absolute=1)).wrong


def test_the_coarser_of_two_types_decides() -> None:
    exact = drawn(1, (100, 100))
    assert is_right(exact.clone(), exact.float())
    assert not is_right(exact.float().double(), exact)
    assert is_right(exact.float(), exact.half())


@pytest.mark.parametrize(
    ("output", "reference"),
    [
        (torch.zeros(2), torch.tensor([1j, 2])),
        (torch.zeros(2, dtype=torch.int32), torch.tensor([1.5, 2.0])),
        (torch.zeros(2, dtype=torch.int32), torch.tensor([1.0, torch.nan])),
        (torch.zeros(2, dtype=torch.int8), torch.tensor([1, 200])),
        (torch.zeros(2, dtype=torch.int8), torch.tensor([1, 200], dtype=torch.uint8)),
        (torch.zeros(2, dtype=torch.uint8), torch.tensor([1, -1])),
        (torch.zeros(2, dtype=torch.bool), torch.tensor([1, 2])),
    ],
)
def test_a_reference_that_the_output_cannot_hold_is_refused(output: torch.Tensor, reference: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"^reference: 'y' is \w+, but the reference is \w+, which it cannot hold"):
        judged(output, reference)


def test_a_reference_of_another_type_that_the_output_can_hold_is_taken() -> None:
    whole = torch.arange(100, dtype=torch.int32)
    assert is_right(whole, whole.double())
    assert is_right(whole, whole.long())
    assert is_right(whole > 3, (whole > 3).int())
    assert is_right(whole.float(), whole)
    assert is_right(whole.to(torch.complex64), whole.float())


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "x"])
def test_a_tolerance_is_a_number(value: float) -> None:
    for name in ("relative", "absolute"):
        with pytest.raises(InputError, match=f"tolerance: {name}: expected a number of at least 0"):
            Tolerance(**{name: value})
