"""The Gaussian process: gradients, exactness, and what a misleading prior does to it."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from bo_tune.search.gp.correlation import CITY, Differences, Pairs, correlation
from bo_tune.search.gp.fitting import Hyperpriors
from bo_tune.search.gp.posterior import Rows as TableRows
from bo_tune.search.gp.posterior import Tables
from bo_tune.search.gp.prior import HistoryPrior, StudyHistory, squeeze
from bo_tune.search.gp.shared import HERE, Rows, SharedPart, posterior_of
from bo_tune.search.gp.surrogate import Data, Surrogate
from bo_tune.search.sampler import log_expected_improvement

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 3))
Y = np.sin(X[:, 0]) + 0.3 * X[:, 1]


def data(count: int) -> Data:
    return Data(np.arange(count), Y[:count], np.full(count, 1e-4))


def shared_part(*places: int) -> SharedPart:
    """What two problems taught, of these places."""
    return SharedPart(rows(*places), X)


def rows(*places: int) -> Rows:
    return Rows(X[:40] + 0.1, Y[:40], np.repeat([0, 1], 20), np.repeat(places or (HERE, HERE), 20))


@pytest.mark.parametrize("with_shared", [False, True])
def test_gradient_of_the_posterior(with_shared: bool) -> None:
    shared = shared_part() if with_shared else None
    process = Surrogate(X, Hyperpriors.vague(3), shared)
    seen = data(12)
    objective, theta = process.objective(seen), process.priors.centre + 0.2
    error = check_grad(lambda at: objective(at)[0], lambda at: objective(at)[1], theta)
    assert error < 1e-4 * np.linalg.norm(objective(theta)[1])


@pytest.mark.parametrize("places", [(0, 0), (0, 1), (1, 1), (1, 2)])
def test_gradient_of_the_histories(places: tuple[int, int]) -> None:
    centre, objective = posterior_of(rows(*places))
    error = check_grad(lambda at: objective(at)[0], lambda at: objective(at)[1], centre + 0.1)
    assert error < 1e-4 * np.linalg.norm(objective(centre + 0.1)[1])


@pytest.mark.parametrize("places", [(0, 0), (0, 1), (1, 1)])
def test_shared_part_by_rows_and_by_blocks(places: tuple[int, int]) -> None:
    part = shared_part(*places)
    points, everything = np.array([3, 50, 7]), np.arange(60)
    whole = part.between(points, everything)
    np.testing.assert_allclose(part.between(points, np.array([1, 50])), whole[:, [1, 50]], atol=1e-10)
    np.testing.assert_allclose(np.diag(part.between(everything, everything)), part.variance, atol=1e-8)


@pytest.mark.parametrize("others", [range(60), range(45), range(1, 60)])
def test_shared_part_of_points_that_were_not_kept(others: range) -> None:
    """Once asked about most points, it keeps what belongs to these; it still answers for the rest."""
    part, fresh = shared_part(), shared_part()
    points, asked, everything = np.array([0, 50, 7]), np.array(others), np.arange(60)
    part.between(points, np.arange(50))
    np.testing.assert_allclose(part.between(points, asked), fresh.block(points, asked), atol=1e-10)
    np.testing.assert_allclose(part.block(points, everything), fresh.block(points, everything), atol=1e-10)


def test_pairs_of_the_last_call_are_not_asked_for_again() -> None:
    asked = []

    def of(points: np.ndarray, others: np.ndarray) -> np.ndarray:
        asked.append(points.tolist())
        return np.multiply.outer(points, others).astype(float)

    pairs = Pairs(of)
    for points in ([3, 1, 2], [2, 3, 5], [5, 2], [7, 8], [8, 8, 1]):
        found = pairs.among(np.array(points))
        np.testing.assert_array_equal(found, np.multiply.outer(points, points))
        found[:] = -1.0  # it is the caller's
    assert asked == [[3, 1, 2], [5], [7, 8], [1]]


def test_correlation_against_its_definition() -> None:
    lengths = np.array([0.5, 1.0, 2.0])
    scaled = (X[:5, None] - X[None, :4]) / lengths
    r = np.sqrt((scaled**2).sum(axis=2))
    smooth = (1 + np.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-np.sqrt(5) * r)
    rough = np.exp(-np.abs(scaled).sum(axis=2) / (CITY * np.sqrt(3)))
    np.testing.assert_allclose(correlation(X[:5], X[:4], lengths, 0.0), smooth, atol=1e-7)
    np.testing.assert_allclose(correlation(X[:5], X[:4], lengths, 1.0), rough, atol=1e-7)
    np.testing.assert_allclose(correlation(X[:5], X[:4], lengths, 0.3), 0.7 * smooth + 0.3 * rough, atol=1e-7)


def test_the_correlations_of_the_fit_are_those_of_the_predictions() -> None:
    lengths = np.array([0.5, 1.0, 2.0])
    expected = correlation(X[:7], X[:7], lengths, 0.4)
    apart = Differences(X[:7], 0.4)
    kernel = apart.upper(apart.correlate(lengths).kernel, 1.0)
    np.testing.assert_allclose(kernel, np.triu(expected), atol=1e-7)


def test_learns_a_smooth_function() -> None:
    posterior = Surrogate(X, Hyperpriors.vague(3)).fit(data(40)).condition(data(40))
    mean, deviation = posterior.predict(np.arange(40, 60))
    assert np.abs(mean - Y[40:]).max() < 0.25
    assert (np.abs(mean - Y[40:]) < 4 * deviation).mean() > 0.9


def test_joint_agrees_with_the_marginals() -> None:
    posterior = Surrogate(X, Hyperpriors.vague(3), shared_part()).fit(data(15)).condition(data(15))
    points = np.arange(15, 30)
    mean, deviation = posterior.predict(points)
    same, covariance = posterior.joint(points)
    np.testing.assert_allclose(same, mean)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), deviation, rtol=1e-6)


def test_a_table_grown_row_by_row_says_what_a_fresh_one_says() -> None:
    process = Surrogate(X, Hyperpriors.vague(3), shared_part())
    asked, seen = np.arange(60), data(20)
    grown = Tables()
    for count in (8, 9, 13, 20):
        table = grown.table(process, asked, seen.points[:count], seen.noise[:count], head=8)
    whole, rows = process.condition(seen), table.given(seen.targets)
    np.testing.assert_allclose(rows.mean, whole.mean, atol=1e-8)
    np.testing.assert_allclose(rows.deviation, whole.deviation, rtol=1e-6)


def test_a_table_does_not_depend_on_where_it_was_taken_up() -> None:
    """A resumed study starts with all observations at once, an uninterrupted one with the first."""
    process = Surrogate(X, Hyperpriors.vague(3))
    asked, seen = np.arange(60), data(20)
    grown, fresh = Tables(), Tables()
    for count in range(8, 21):
        one = grown.table(process, asked, seen.points[:count], seen.noise[:count], head=8)
    other = fresh.table(process, asked, seen.points, seen.noise, head=8)
    np.testing.assert_array_equal(one.solved, other.solved)
    np.testing.assert_array_equal(one.lower, other.lower)


def test_other_observations_start_another_table() -> None:
    process = Surrogate(X, Hyperpriors.vague(3))
    tables, asked, seen = Tables(), np.arange(60), data(10)
    tables.table(process, asked, seen.points, seen.noise, head=8)
    turned = tables.table(process, asked, seen.points[::-1], seen.noise, head=8).given(seen.targets[::-1])
    np.testing.assert_allclose(turned.mean, process.condition(seen).mean, atol=1e-8)


def test_only_what_is_asked_about_is_kept() -> None:
    process = Surrogate(X, Hyperpriors.vague(3))
    asked = np.array([0, 1, 2, 3, 4, 30, 50])
    mean, deviation = process.condition(data(5), asked).predict(np.array([30, 50]))
    whole = process.condition(data(5)).predict(np.array([30, 50]))
    np.testing.assert_allclose((mean, deviation), whole)


def test_believing_a_prediction_changes_no_mean_and_makes_it_surer() -> None:
    posterior = Surrogate(X, Hyperpriors.vague(3)).condition(data(10))
    believed = posterior.believing(np.array([40, 41]))
    np.testing.assert_allclose(believed.mean, posterior.mean, atol=1e-6)
    assert (believed.deviation <= posterior.deviation + 1e-9).all()
    assert (believed.deviation[[40, 41]] < 0.5 * posterior.deviation[[40, 41]]).all()


def test_noisy_observations_pull_less() -> None:
    far = Data(np.array([0]), np.array([3.0]), np.array([4.0]))
    near = Data(np.array([0]), np.array([3.0]), np.array([1e-4]))
    process = Surrogate(X, Hyperpriors.vague(3))
    assert process.condition(far).predict(np.array([0]))[0] < 0.6 * process.condition(near).predict(np.array([0]))[0]


def history(inputs: np.ndarray, log_times: np.ndarray) -> StudyHistory:
    configs = [{"x": i} for i in range(len(inputs))]
    return StudyHistory(inputs, np.exp(log_times), configs, {"m": 1.0})


@pytest.mark.parametrize(("sign", "better"), [(1.0, True), (-1.0, False)])
def test_good_history_helps_and_bad_is_let_go(sign: float, better: bool) -> None:
    part = HistoryPrior([history(X[:30], sign * Y[:30]), history(X[30:50], sign * Y[30:50])]).learn(X[:50], X)
    untaught = Surrogate(X, Hyperpriors.vague(3))
    taught = Surrogate(X, part.priors(), part)
    rest = np.arange(50, 60)

    def error(process: Surrogate, count: int) -> float:
        seen = Data(np.arange(count), Y[:count] - Y[:count].min(), np.full(count, 1e-4))
        mean, _ = process.fit(seen).condition(seen).predict(rest)
        return float(np.sqrt(np.mean((mean - (Y[rest] - Y[:count].min())) ** 2)))

    assert (error(taught, 2) < 0.7 * error(untaught, 2)) is better
    assert error(taught, 30) < max(1.5 * error(untaught, 30), 0.1)


def test_samples_of_histories_keep_the_extremes() -> None:
    whole = history(X, Y)
    part = whole.sample(10)
    assert len(part.times) == len(part.configs) == len(part.features) <= 10
    assert part.times.min() == whole.times.min()
    assert part.times.max() == whole.times.max()
    assert whole.sample(100) is whole


def test_histories_are_checked() -> None:
    with pytest.raises(ValueError, match="the same number"):
        StudyHistory(X[:3], np.ones(2), [{}, {}])
    with pytest.raises(ValueError, match="above 0"):
        StudyHistory(X[:1], np.zeros(1), [{}])
    with pytest.raises(ValueError, match="at least one"):
        HistoryPrior([])


def test_squeezing_keeps_order_and_what_is_near() -> None:
    y = np.linspace(-1, 5, 50)
    squeezed = squeeze(y)
    assert (np.diff(squeezed) > 0).all()
    np.testing.assert_array_equal(squeezed[y <= 0.6], y[y <= 0.6])


def test_log_expected_improvement() -> None:
    draws = np.random.default_rng(1).standard_normal(400_000)
    for mean, deviation in [(0.0, 1.0), (1.0, 0.5), (-1.0, 0.3)]:
        expected = np.log(np.maximum(0.2 - (mean + deviation * draws), 0).mean())
        found = log_expected_improvement(np.array([mean]), np.array([deviation]), 0.2)[0]
        assert found == pytest.approx(expected, abs=0.03)
    u = np.linspace(-40, 2, 2000)
    curve = log_expected_improvement(-u, np.ones_like(u), 0.0)
    assert np.isfinite(curve).all()
    assert (np.diff(curve) > 0).all()


def test_far_from_all_that_was_seen_the_trend_is_what_is_expected() -> None:
    far = np.vstack([X, [[50.0, 50.0, 50.0], [50.0, 50.0, -50.0]]])
    trend = np.zeros(62)
    trend[60] = 0.7
    process = Surrogate(far, Hyperpriors.vague(3), trend=trend).fit(data(20))
    mean, _ = process.condition(data(20)).predict(np.array([60, 61]))
    assert mean[0] - mean[1] == pytest.approx(0.7, abs=1e-6)


def test_rows_grow_in_place_and_whoever_holds_them_keeps_them() -> None:
    first = TableRows.of(np.ones((2, 3)), room=4)
    more = first.grown(2, np.full((1, 3), 2.0))
    assert more is first
    other = first.grown(2, np.full((1, 3), 5.0))
    assert other is not first
    assert more.first(3).tolist() == [[1, 1, 1], [1, 1, 1], [2, 2, 2]]
    assert other.first(3).tolist() == [[1, 1, 1], [1, 1, 1], [5, 5, 5]]
