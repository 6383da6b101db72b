"""The classifier two-sample test."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from kantor.validation.classifier import area_under_curve, classifier_test


def test_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.3, 1, 200).round(1), rng.normal(size=150).round(1)
    v, w = rng.uniform(0, 2, 200), rng.uniform(0, 2, 150)
    labels, scores = np.repeat([1, 0], [200, 150]), np.concatenate([x, y])
    assert area_under_curve(x, y).value == pytest.approx(roc_auc_score(labels, scores))
    expected = roc_auc_score(labels, scores, sample_weight=np.concatenate([v, w]))
    assert area_under_curve(x, y, v, w).value == pytest.approx(expected)


def test_by_hand() -> None:
    # 3 > 1 and 3 > 2; 2 > 1 and 2 = 2.
    assert area_under_curve(np.array([3.0, 2.0]), np.array([1.0, 2.0])).value == 3.5 / 4
    # The row with weight -1 takes one of two equal rows away.
    signed = area_under_curve(np.array([3.0, 0.0, 0.0]), np.array([1.0, 2.0]), np.array([1.0, 1.0, -1.0]))
    assert signed.value == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_error_has_the_right_size(weighted: bool) -> None:
    toys, shift, rng = 400, 0.7, np.random.default_rng(2)
    pulls = []
    for _ in range(toys):
        x, y = rng.normal(shift, 1, 200), rng.normal(0, 1, 150)
        weights = (rng.normal(1, 0.7, 200), rng.normal(1, 0.7, 150)) if weighted else (None, None)
        found = area_under_curve(x, y, *weights)
        pulls.append((found.value - stats.norm.cdf(shift / np.sqrt(2))) / (found.high - found.value))
    assert abs(np.mean(pulls)) < 0.2
    assert 0.88 < np.std(pulls) < 1.12


def test_equal_samples_are_not_rejected_too_often() -> None:
    rng = np.random.default_rng(3)
    found = [classifier_test(rng.normal(size=(200, 3)), rng.normal(size=(200, 3)), seed=toy) for toy in range(40)]
    rejected = sum(each.p_value is not None and each.p_value < 0.1 for each in found)
    assert stats.binomtest(rejected, 40, 0.1, "greater").pvalue > 0.01
    areas = np.array([each.value for each in found])
    assert abs(areas.mean() - 0.5) < 3 * areas.std() / np.sqrt(40)
    assert 0.7 < areas.std() / np.mean([each.high - each.value for each in found]) < 1.3


def test_a_shift_is_found() -> None:
    rng = np.random.default_rng(4)
    found = classifier_test(rng.normal(1, 1, (500, 2)), rng.normal(0, 1, (500, 2)), seed=1)
    assert found.value == pytest.approx(stats.norm.cdf(1), abs=0.06)
    assert found.p_value is not None
    assert found.p_value < 1e-6


def test_signed_weights_subtract_a_background() -> None:
    """Signal with a background, and as many background rows with weight -1, is signal."""
    rng = np.random.default_rng(5)
    signal, background = rng.normal(0, 1, (3000, 1)), rng.normal(3, 1, (600, 1))
    subtracted = np.concatenate([rng.normal(0, 1, (3000, 1)), background, rng.normal(3, 1, (600, 1))])
    weights = np.repeat([1.0, 1.0, -1.0], [3000, 600, 600])
    found = classifier_test(subtracted, signal, weights, None, seed=1)
    assert abs(found.value - 0.5) < 3 * (found.high - found.value)
    assert classifier_test(subtracted, signal, seed=1).value > 0.58


def test_the_same_seed_gives_the_same_bits() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    assert classifier_test(x, y, seed=3) == classifier_test(x, y, seed=3)
    assert classifier_test(x, y, seed=3) != classifier_test(x, y, seed=4)
