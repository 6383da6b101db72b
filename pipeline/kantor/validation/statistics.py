"""Weighted statistics of one and two samples: pure functions of arrays.

Weights may have either sign (sWeights) and are used as they are; sums of weights must not vanish. `None` means equal
weights. An effective number of rows is (sum w)^2 / sum w^2. Shapes: N and M rows, K columns, S splits.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from kantor.resolution import is_constant

Weights = np.ndarray | None


@dataclass(frozen=True)
class Estimate:
    """A value, the ends of its interval, and where there is one the p-value of its null hypothesis."""

    value: float
    low: float
    high: float
    p_value: float | None = None

    @classmethod
    def symmetric(cls, value: float, error: float, p_value: float | None = None) -> "Estimate":
        return cls(value, value - error, value + error, p_value)

    @classmethod
    def spread(cls, values: np.ndarray) -> "Estimate":
        """The mean of repeated measurements and the central 68 % of them."""
        low, high = np.quantile(values, [0.16, 0.84])
        return cls(float(np.mean(values)), float(low), float(high))


def effective_rows(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2."""
    weights = weights.astype(np.float64)
    return float(weights.sum() ** 2 / np.square(weights).sum())


# ------------------------------------------------------------------------------------------------- one dimension


class Pooled:
    """Two samples of one quantity, sorted together once; weights may then change at the cost of one pass.

    Args:
        values: (N + M,), those of the first sample first.
    """

    def __init__(self, values: np.ndarray) -> None:
        values = values.astype(np.float64)
        self.order = np.argsort(values, kind="stable")
        self.gaps = np.diff(values[self.order])

    def distances(self, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
        """W1 = integral |F - G| and KS = max |F - G| of two weighted distributions on the pooled values.

        Source: for W1, Vallender, Theory Probab. Appl. 18 (1974) 784.

        Args:
            first, second: (N + M,) weights, zero for the rows of the other sample; any sign, any normalisation.

        Returns:
            (W1 in the unit of the values, KS in [0, 1]).
        """
        jumps = first / first.sum() - second / second.sum()
        difference = np.abs(np.cumsum(jumps[self.order]))[:-1]
        # Between equal values the distribution functions have no meaning: a step is complete after the last of them.
        complete = difference[self.gaps > 0]
        # With weights of either sign a distribution function may leave [0, 1], and the difference with it.
        return float(difference @ self.gaps), min(float(complete.max(initial=0.0)), 1.0)


def distances_1d(
    x: np.ndarray, y: np.ndarray, weight_x: Weights = None, weight_y: Weights = None
) -> tuple[float, float]:
    """W1 and KS between two samples of one quantity; see `Pooled.distances`."""
    return Pooled(np.concatenate([x, y])).distances(*_side_by_side(x, y, weight_x, weight_y))


def compare_1d(
    x: np.ndarray,
    y: np.ndarray,
    weight_x: Weights = None,
    weight_y: Weights = None,
    *,
    replicas: int,
    rng: np.random.Generator,
) -> tuple[Estimate, Estimate]:
    """W1 and KS with bootstrap errors.

    The errors are standard deviations over replicas that draw the rows of both samples anew, with replacement. They
    are put around the value itself, since a replica's distance is too large on average: drawing anew adds noise.
    KS also has its asymptotic p-value at the effective numbers of rows.
    """
    pooled = Pooled(np.concatenate([x, y]))
    first, second = _side_by_side(x, y, weight_x, weight_y)
    w1, ks = pooled.distances(first, second)
    drawn = [
        pooled.distances(first * _counts(len(x), len(y), 0, rng), second * _counts(len(x), len(y), 1, rng))
        for _ in range(replicas)
    ]
    w1_error, ks_error = np.std(drawn, axis=0, ddof=1)
    rows_x, rows_y = effective_rows(first), effective_rows(second)
    p_value = stats.kstwobign.sf(ks * (rows_x * rows_y / (rows_x + rows_y)) ** 0.5)
    return Estimate.symmetric(w1, float(w1_error)), Estimate.symmetric(ks, float(ks_error), float(p_value))


def split_distances_1d(values: np.ndarray, weights: Weights, first: np.ndarray) -> np.ndarray:
    """W1 and KS between random halves of one sample.

    Args:
        values: (K,).
        weights: (K,) or None.
        first: (S, K) bool, which rows make the first half of each split.

    Returns:
        (S, 2): W1 and KS.
    """
    pooled = Pooled(values)
    w = np.ones(len(values)) if weights is None else weights.astype(np.float64)
    return np.array([pooled.distances(w * half, w * ~half) for half in first])


def random_halves(rows: int, splits: int, rng: np.random.Generator) -> np.ndarray:
    """(splits, 2 rows) bool: which rows make the first half of each random split."""
    halves = np.zeros((splits, 2 * rows), dtype=bool)
    for half in halves:
        half[rng.permutation(2 * rows)[:rows]] = True
    return halves


def _side_by_side(x: np.ndarray, y: np.ndarray, weight_x: Weights, weight_y: Weights) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros(len(x) + len(y)), np.zeros(len(x) + len(y))
    first[: len(x)] = 1.0 if weight_x is None else weight_x
    second[len(x) :] = 1.0 if weight_y is None else weight_y
    return first, second


def _counts(rows_x: int, rows_y: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """How often a bootstrap replica draws each row of one side, beside zeros for the other."""
    begin, rows = (0, rows_x) if side == 0 else (rows_x, rows_y)
    return np.bincount(begin + rng.integers(rows, size=rows), minlength=rows_x + rows_y)


# --------------------------------------------------------------------------------------------------- fractions


def fraction(passes: np.ndarray, weights: Weights = None, *, confidence: float) -> Estimate:
    """Weighted fraction of rows with its Clopper-Pearson interval.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404. With weights, the effective number of rows stands for the
    number of trials, and the fraction of it for the number of successes.

    Args:
        passes: (N,) bool.
        confidence: coverage of the interval.
    """
    w = np.ones(len(passes)) if weights is None else weights.astype(np.float64)
    # With weights of either sign it may leave its range.
    value = min(max(float(w @ passes / w.sum()), 0.0), 1.0)
    low, high = clopper_pearson(value * effective_rows(w), effective_rows(w), confidence)
    return Estimate(value, low, high)


def clopper_pearson(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """The central Clopper-Pearson interval of a binomial probability; the counts may be effective ones."""
    successes, tail = min(max(successes, 0.0), trials), (1 - confidence) / 2
    low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes > 0 else 0.0
    high = stats.beta.isf(tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


# --------------------------------------------------------------------------------------------------- directions


def rayleigh(phi: np.ndarray, weights: Weights = None) -> Estimate:
    """Length R of the mean direction vector; 0 for a uniform azimuth, 1 for a single direction.

    The p-value is that of uniformity, exp(-(sum w)^2 R^2 / sum w^2), at large N; the error is the one along the mean
    direction. Source: Mardia and Jupp, Directional Statistics (2000), section 6.3.1.

    Args:
        phi: (N,) angles [rad].
    """
    w = np.ones(len(phi)) if weights is None else weights.astype(np.float64)
    vector = (w @ np.exp(1j * phi)) / w.sum()
    length = float(abs(vector))
    along = np.cos(phi - np.angle(vector)) - length
    error = float(np.sqrt(np.square(w) @ np.square(along)) / abs(w.sum()))
    return Estimate.symmetric(length, error, float(np.exp(-effective_rows(w) * length**2)))


def uniformity(phi: np.ndarray, weights: Weights = None, *, bins: int = 36) -> Estimate:
    """chi2 / ndf of a histogram of angles against a uniform azimuth, ndf = bins - 1, with the p-value.

    With weights chi2 = bins sum_b (W_b - W / bins)^2 / sum w^2, for weights that do not depend on the angle. The
    error is that of a non-central chi2.

    Args:
        phi: (N,) angles in [-pi, pi] [rad].
    """
    w = np.ones(len(phi)) if weights is None else weights.astype(np.float64)
    filled = np.histogram(phi, bins, (-np.pi, np.pi), weights=w)[0]
    chi2 = float(bins * np.square(filled - w.sum() / bins).sum() / np.square(w).sum())
    ndf = bins - 1
    error = (2 * ndf + 4 * max(chi2 - ndf, 0.0)) ** 0.5
    return Estimate.symmetric(chi2 / ndf, error / ndf, float(stats.chi2.sf(chi2, ndf)))


# -------------------------------------------------------------------------------------------------- correlations


def correlations(columns: np.ndarray, weights: Weights = None) -> np.ndarray:
    """Weighted Pearson correlation matrix (K, K) of the columns of (N, K); NaN beside a constant column."""
    w = np.ones(len(columns)) if weights is None else weights.astype(np.float64)
    w = w / w.sum()
    centred = columns - w @ columns
    covariance = (centred * w[:, None]).T @ centred
    with np.errstate(invalid="ignore"):
        deviation = np.sqrt(np.diag(covariance))
    # What rounding leaves of a constant column is no deviation; nor is the root of a negative signed variance, NaN.
    constant = is_constant(columns.min(axis=0), columns.max(axis=0))
    deviation = np.where(constant | (deviation <= 0), np.nan, deviation)
    return covariance / np.outer(deviation, deviation)


def correlation_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean |difference| of the correlation coefficients above the diagonal; undefined ones are left out."""
    above = np.triu_indices(len(first), 1)
    difference = np.abs(first - second)[above]
    return float(np.nanmean(difference)) if np.isfinite(difference).any() else float("nan")


# ------------------------------------------------------------------------------------------------------ quantiles


def weighted_quantiles(values: np.ndarray, quantiles: np.ndarray | list[float], weights: Weights = None) -> np.ndarray:
    """Quantiles of the weighted distribution; negative weights count as zero, for a quantile needs an order."""
    order = np.argsort(values, kind="stable")
    w = np.ones(len(values)) if weights is None else np.maximum(weights.astype(np.float64), 0.0)
    cumulative = np.cumsum(w[order])
    place = np.searchsorted(cumulative, np.asarray(quantiles) * cumulative[-1], side="left")
    return values[order][np.minimum(place, len(values) - 1)]


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(values.astype(np.float64) @ weights / weights.sum(dtype=np.float64))
