"""Statistics of one and two weighted samples, against SciPy, by hand and over toys."""

import numpy as np
import pytest
from scipy import stats

from kantor.validation.statistics import (
    Estimate,
    clopper_pearson,
    compare_1d,
    correlation_distance,
    correlations,
    distances_1d,
    effective_rows,
    fraction,
    random_halves,
    rayleigh,
    split_distances_1d,
    uniformity,
    weighted_mean,
    weighted_quantiles,
)


def ks_by_scipy(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    distance, p_value = np.asarray(stats.ks_2samp(x, y, method="asymp"))
    return float(distance), float(p_value)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_distances_agree_with_scipy(rng: np.random.Generator) -> None:
    # Rounded values tie, within and between the samples.
    x, y = rng.normal(0.2, 1, 300).round(1), rng.normal(size=200).round(1)
    v, w = rng.uniform(0, 1, 300), rng.uniform(0, 1, 200)
    assert distances_1d(x, y)[0] == pytest.approx(stats.wasserstein_distance(x, y))
    assert distances_1d(x, y)[1] == pytest.approx(ks_by_scipy(x, y)[0])
    assert distances_1d(x, y, v, w)[0] == pytest.approx(stats.wasserstein_distance(x, y, v, w))


def test_a_weight_is_a_number_of_rows(rng: np.random.Generator) -> None:
    x, y, times = rng.normal(size=50), rng.normal(size=80), rng.integers(0, 4, 50)
    assert distances_1d(x, y, times) == pytest.approx(distances_1d(np.repeat(x, times), y))


def test_a_negative_weight_takes_a_row_away(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=50), rng.normal(size=80)
    signed = np.concatenate([np.ones(50), -np.ones(10)])
    assert distances_1d(np.concatenate([x, x[:10]]), y, signed) == pytest.approx(distances_1d(x[10:], y))


@pytest.mark.parametrize("weighted", [False, True])
def test_bootstrap_errors_have_the_right_size(weighted: bool) -> None:
    """W1 of shifted distributions is the shift; KS of normals is known."""
    toys, shift, rng = 60, 1.0, np.random.default_rng(2)
    pulls = []
    for _ in range(toys):
        x, y = rng.normal(shift, 1, 400), rng.normal(0, 1, 400)
        weights = (rng.normal(1, 0.7, 400), rng.normal(1, 0.7, 400)) if weighted else (None, None)
        found = compare_1d(x, y, *weights, replicas=40, rng=rng)
        expected = shift, 1 - 2 * stats.norm.cdf(-shift / 2)
        pulls.append(
            [(each.value - true) / (each.high - each.value) for each, true in zip(found, expected, strict=True)]
        )
    pulls = np.array(pulls)
    # A maximum is biased upwards, so of KS only the width is looked at.
    assert abs(pulls[:, 0].mean()) < 3.5 / np.sqrt(toys)
    assert np.all((pulls.std(axis=0) > 0.7) & (pulls.std(axis=0) < 1.35))


def test_ks_p_value_is_scipys(rng: np.random.Generator) -> None:
    x, y = rng.normal(0.1, 1, 1000), rng.normal(size=800)
    found = compare_1d(x, y, replicas=20, rng=rng)[1]
    assert found.p_value == pytest.approx(ks_by_scipy(x, y)[1], rel=0.15)


def test_splits_are_two_sample_distances(rng: np.random.Generator) -> None:
    values, weights, halves = rng.normal(size=100), rng.normal(1, 1, 100), random_halves(50, 3, rng)
    assert halves.sum(axis=1).tolist() == [50, 50, 50]
    expected = [distances_1d(values[half], values[~half], weights[half], weights[~half]) for half in halves]
    assert split_distances_1d(values, weights, halves) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(("successes", "trials"), [(0, 50), (3, 50), (50, 50), (1, 2)])
def test_clopper_pearson_is_scipys(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.9, method="exact")
    assert clopper_pearson(successes, trials, 0.9) == pytest.approx((expected.low, expected.high))


def test_fraction_with_equal_weights_is_unweighted(rng: np.random.Generator) -> None:
    passes = rng.random(200) < 0.1
    plain = fraction(passes, confidence=0.95)
    assert fraction(passes, np.full(200, 2.5), confidence=0.95) == pytest.approx(plain)
    assert plain.value == passes.mean()
    assert plain.low < plain.value < plain.high


def test_weighted_fraction_uses_the_effective_rows() -> None:
    weights = np.array([1.0, 1.0, 2.0, -1.0])
    assert effective_rows(weights) == pytest.approx(9 / 7)
    found = fraction(np.array([True, False, False, False]), weights, confidence=0.68)
    assert found.value == pytest.approx(1 / 3)
    assert (found.low, found.high) == pytest.approx(clopper_pearson(3 / 7, 9 / 7, 0.68))
    # A signed fraction may leave [0, 1]; its interval does not.
    assert fraction(np.array([False, False, False, True]), weights, confidence=0.68).low == 0


def test_rayleigh_by_hand() -> None:
    assert rayleigh(np.array([0.0, np.pi / 2])).value == pytest.approx(np.sqrt(0.5))
    assert rayleigh(np.zeros(5)).value == pytest.approx(1)
    assert rayleigh(np.array([0.0, 2.0]), np.array([1.0, 0.0])).value == pytest.approx(1)


def test_uniformity_is_scipys_chi2(rng: np.random.Generator) -> None:
    phi = rng.uniform(-np.pi, np.pi, 1000)
    expected = stats.chisquare(np.histogram(phi, 36, (-np.pi, np.pi))[0])
    found = uniformity(phi)
    assert found.value == pytest.approx(expected.statistic / 35)
    assert found.p_value == pytest.approx(expected.pvalue)


def test_azimuth_p_values_do_not_reject_too_often(rng: np.random.Generator) -> None:
    p_values = []
    for _ in range(200):
        phi, weights = rng.uniform(-np.pi, np.pi, 1000), rng.normal(1, 1, 1000)
        p_values.append([test(phi, weights).p_value for test in (rayleigh, uniformity)])
    for rejected in np.sum(np.array(p_values) < 0.1, axis=0):
        assert stats.binomtest(int(rejected), 200, 0.1).pvalue > 0.003
    tilted = rng.vonmises(0, 0.5, 1000)
    assert all(found.p_value is not None and found.p_value < 0.01 for found in (rayleigh(tilted), uniformity(tilted)))


def test_correlations_are_numpys(rng: np.random.Generator) -> None:
    columns = rng.normal(size=(100, 4)) @ rng.normal(size=(4, 4))
    assert correlations(columns) == pytest.approx(np.corrcoef(columns.T))
    times = rng.integers(0, 3, 100)
    assert correlations(columns, times) == pytest.approx(np.corrcoef(np.repeat(columns, times, axis=0).T))


def test_correlation_distance_leaves_out_what_is_undefined(rng: np.random.Generator) -> None:
    columns = np.column_stack([rng.normal(size=(50, 2)), np.ones(50)])
    first = correlations(columns)
    assert np.isnan(first[0, 2])
    second = first.copy()
    second[0, 1] += 0.25
    assert correlation_distance(first, second) == pytest.approx(0.25)


def test_quantiles_and_means(rng: np.random.Generator) -> None:
    values = rng.normal(size=101)
    assert weighted_quantiles(values, [0.5])[0] == np.median(values)
    assert weighted_quantiles(values, [0.5], np.arange(101) == 7)[0] == values[7]
    assert weighted_mean(np.array([1.0, 5.0, 9.0]), np.array([1.0, 1.0, -1.0])) == -3


def test_spread_is_the_central_68_percent() -> None:
    found = Estimate.spread(np.arange(101.0))
    assert (found.value, found.low, found.high) == pytest.approx((50, 16, 84))
