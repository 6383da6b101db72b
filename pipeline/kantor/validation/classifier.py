"""The classifier two-sample test: how well can a classifier tell generated from true rows?

Lopez-Paz and Oquab, arXiv:1610.06545. Half of each sample trains gradient boosted trees, the other half measures the
area under the ROC curve: pooling folds instead rejects true hypotheses too often. Shapes: N and M rows, D columns.
"""

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from kantor.validation.statistics import Estimate, Weights

# Fixed, and without early stopping, so that every comparison uses the same classifier.
_BOOSTING = {"max_iter": 100, "learning_rate": 0.1, "max_leaf_nodes": 31, "early_stopping": False}


def classifier_test(
    x: np.ndarray, y: np.ndarray, weight_x: Weights = None, weight_y: Weights = None, *, seed: int
) -> Estimate:
    """Area under the ROC curve of a classifier of generated (x) against true (y) rows, on held-out halves.

    0.5: it cannot tell them apart; 1: it always can. Negative weights are set to zero for fitting, which trees
    need; the area itself uses the weights as they are. The p-value is one-sided, that of an area of 0.5.

    Args:
        x: (N, D).
        y: (M, D), in the same dtype as x.
        weight_x: (N,) or None.
        weight_y: (M,) or None.
        seed: of the division into halves and of the classifier.
    """
    rng = np.random.default_rng(seed)
    (x_fit, x_test), (y_fit, y_test) = (_halves(len(rows), rng) for rows in (x, y))
    classifier = HistGradientBoostingClassifier(**_BOOSTING, random_state=seed)
    labels = np.repeat([1, 0], [len(x_fit), len(y_fit)])
    weights = None
    if weight_x is not None or weight_y is not None:
        pair = [_ones(weight_x, len(x))[x_fit], _ones(weight_y, len(y))[y_fit]]
        # Equal sums for both classes, as the area does not depend on them but the fit does.
        weights = np.concatenate([np.maximum(w, 0) / np.maximum(w, 0).sum() * len(w) for w in pair])
    # Gradients summed by several threads round by their number, and threads that share a core wait for each other.
    with threadpool_limits(1):
        classifier.fit(np.concatenate([x[x_fit], y[y_fit]]), labels, sample_weight=weights)
        x_score, y_score = (classifier.decision_function(rows) for rows in (x[x_test], y[y_test]))
    return area_under_curve(
        x_score,
        y_score,
        None if weight_x is None else weight_x[x_test],
        None if weight_y is None else weight_y[y_test],
    )


def area_under_curve(x: np.ndarray, y: np.ndarray, weight_x: Weights = None, weight_y: Weights = None) -> Estimate:
    """Weighted Mann-Whitney estimate of P(x > y) + P(x = y) / 2 with its DeLong error.

    The error comes from the placements of each row among the other sample (DeLong, DeLong and Clarke-Pearson,
    Biometrics 44 (1988) 837), each with its normalised weight squared. The p-value is one-sided, against 0.5.

    Args:
        x: (N,) scores of the first sample.
        y: (M,) scores of the second.
    """
    a, b = (w / w.sum() for w in (_ones(weight_x, len(x)), _ones(weight_y, len(y))))
    place_x, place_y = _below(x, y, b), 1 - _below(y, x, a)
    # With weights of either sign it may leave its range.
    area = min(max(float(a @ place_x), 0.0), 1.0)
    variance = sum(
        np.square(w) @ np.square(place - area) * len(w) / (len(w) - 1) for w, place in ((a, place_x), (b, place_y))
    )
    error = float(np.sqrt(variance))
    p_value = float(stats.norm.sf(area - 0.5, scale=error)) if error > 0 else float(area <= 0.5)
    return Estimate.symmetric(area, error, p_value)


def _below(values: np.ndarray, others: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For each value, the weight of the others below it plus half of that of equal ones."""
    order = np.argsort(others, kind="stable")
    cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])
    below, not_above = (cumulative[np.searchsorted(others[order], values, side=side)] for side in ("left", "right"))
    return (below + not_above) / 2


def _halves(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(rows)
    return order[: rows // 2], order[rows // 2 :]


def _ones(weights: Weights, rows: int) -> np.ndarray:
    return np.ones(rows) if weights is None else weights.astype(np.float64)
