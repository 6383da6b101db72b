"""The energy distance: its definition, its error, and the tests made from it."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

import kantor_kernels
from kantor.validation.energy import energy_distance_estimate, permutation_test, split_distances, standardised
from kantor.validation.statistics import random_halves


def by_definition(x: np.ndarray, y: np.ndarray, v: np.ndarray, w: np.ndarray) -> float:
    """The U estimator of rows that are standardised already, pair by pair."""

    def within(rows: np.ndarray, weights: np.ndarray) -> float:
        return weights @ cdist(rows, rows) @ weights / (weights.sum() ** 2 - (weights**2).sum())

    return 2 * v @ cdist(x, y) @ w / (v.sum() * w.sum()) - within(x, v) - within(y, w)


def unit_variance(rows: np.ndarray) -> np.ndarray:
    return (rows - rows.mean(0)) / rows.std(0)


@pytest.mark.parametrize("weighted", [False, True])
def test_value_is_the_definition(weighted: bool) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 3)) + 0.3, unit_variance(rng.normal(size=(50, 3)))
    v, w = rng.normal(1, 1, 60), rng.normal(1, 1, 50)
    if not weighted:
        value, _ = energy_distance_estimate(x, y)
        assert value == pytest.approx(by_definition(x, y, np.ones(60), np.ones(50)), abs=1e-6)
        return
    value, _ = energy_distance_estimate(x, y, v, w)
    a, b = standardised(x, y, w)
    assert value == pytest.approx(by_definition(a.numpy(), b.numpy(), v, w), abs=1e-6)
    kernel = kantor_kernels.energy_distance(a, b, *(torch.tensor(u).float() for u in (v, w)), estimator="u")
    assert value == pytest.approx(float(kernel), abs=1e-5)


def test_one_dimension_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(0.5, 1, (200, 1)), unit_variance(rng.normal(size=(300, 1)))
    value, _ = energy_distance_estimate(x, y)
    v_statistic = 2 * stats.energy_distance(x[:, 0], y[:, 0]) ** 2 / 2
    bias = sum(cdist(rows, rows).sum() / len(rows) ** 2 / (len(rows) - 1) for rows in (x, y))
    assert value == pytest.approx(v_statistic - bias, rel=1e-4)


def test_units_of_the_columns_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(100, 2)), rng.normal(size=(100, 2))
    assert energy_distance_estimate(x, y) == pytest.approx(
        energy_distance_estimate(x * [1e3, 1e-3] + 50, y * [1e3, 1e-3] + 50), rel=1e-3, abs=1e-6
    )


def test_a_constant_column_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(100, 1)), rng.normal(size=(100, 1))
    with_constant = energy_distance_estimate(*(np.column_stack([rows, np.full(100, 7.0)]) for rows in (x, y)))
    assert with_constant == pytest.approx(energy_distance_estimate(x, y), abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_error_has_the_right_size(weighted: bool) -> None:
    """Pulls over toys of shifted normals: E|N(m, 2)| is known, so is the energy distance."""
    toys, shift, rng = 200, 0.4, np.random.default_rng(4)
    away = shift / np.sqrt(2)
    folded = np.sqrt(2) * (np.sqrt(2 / np.pi) * np.exp(-(away**2) / 2) + away * (1 - 2 * stats.norm.cdf(-away)))
    expected = 2 * folded - 4 / np.sqrt(np.pi)
    found = []
    for _ in range(toys):
        x, y = rng.normal(shift, 1, (300, 1)), rng.normal(0, 1, (300, 1))
        weights = (rng.normal(1, 0.7, 300), rng.normal(1, 0.7, 300)) if weighted else (None, None)
        found.append(energy_distance_estimate(x, y, *weights))
    values, errors = np.array(found).T
    # The distance's own spread is skewed, so pulls are taken with the mean error.
    pulls = (values - expected) / np.sqrt(np.mean(errors**2))
    assert abs(pulls.mean()) < 3 * pulls.std() / np.sqrt(toys)
    assert 0.8 < pulls.std() < 1.2


def test_equal_samples_scatter_around_zero_and_the_error_covers_them() -> None:
    rng = np.random.default_rng(5)
    found = [energy_distance_estimate(rng.normal(size=(150, 3)), rng.normal(size=(150, 3))) for _ in range(200)]
    values, errors = np.array(found).T
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(200)
    assert 0.6 < values.std() / np.sqrt(np.mean(errors**2)) < 1.1


def test_permutations_do_not_reject_too_often() -> None:
    rng = np.random.default_rng(6)
    p_values = [
        permutation_test(
            rng.normal(size=(60, 2)), rng.normal(size=(60, 2)), None, None, permutations=99, seed=toy
        ).p_value
        for toy in range(100)
    ]
    assert stats.binomtest(int(np.sum(np.array(p_values) <= 0.1)), 100, 0.1).pvalue > 0.003
    shifted = permutation_test(
        rng.normal(size=(60, 2)) + 1, rng.normal(size=(60, 2)), None, None, permutations=99, seed=1
    )
    assert shifted.p_value == 0.01


@pytest.mark.parametrize("weighted", [False, True])
def test_splits_in_one_pass_are_the_splits(weighted: bool) -> None:
    rng = np.random.default_rng(7)
    rows, halves = rng.normal(size=(1000, 3)), random_halves(500, 6, rng)
    weights = rng.normal(1, 1, 1000) if weighted else None
    w = np.ones(1000) if weights is None else weights
    z = standardised(rows, rows, weights)[0].numpy()
    expected = [by_definition(z[half], z[~half], w[half], w[~half]) for half in halves]
    assert split_distances(rows, weights, halves) == pytest.approx(expected, abs=0.02 * float(np.std(expected)))


def test_weights_that_cancel_are_an_error() -> None:
    rows = np.random.default_rng(8).normal(size=(10, 2))
    with pytest.raises(ValueError, match="sum to zero"):
        energy_distance_estimate(rows, rows, np.tile([1.0, -1.0], 5), None)
    with pytest.raises(ValueError, match="10 rows have 9 weights"):
        energy_distance_estimate(rows, rows, np.ones(9), None)
