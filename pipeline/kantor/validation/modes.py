"""How well a sample covers the modes of a known mixture: modes found, high quality, reverse KL divergence.

The protocol of PacGAN (Lin et al., arXiv:1712.04086, section 4.1) and VEEGAN: samples of 2,500 rows; a row is of high
quality within three standard deviations of the nearest mode; a mode is found where one such row is. The Gaussians have
the same width in every feature, in which a perfect sample in two dimensions has 98.9 % of high quality.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kantor.physics import Modes
from kantor.results import Measurement
from kantor.validation.sides import Side, Sides, measurement
from kantor.validation.statistics import Estimate

DRAW = 2500
REACH = 3.0
# Fewer draws than this would have no useful spread; small samples are drawn from in smaller parts.
_LEAST_DRAWS = 4


def measure(what: Modes, sides: Sides, confidence: float) -> list[Measurement]:
    """Modes found, rows of high quality, how evenly these are shared, and how wide a mode is."""
    generated, truth, pool = (
        modes_of(side.sample.features, what) for side in (sides.generated, sides.truth, sides.pool)
    )
    number, rows = len(what.centres), draws(generated).shape[1]

    def compared(statistic: str, label: str, of: Callable[[np.ndarray, np.ndarray], float], **more: Any) -> Measurement:
        def drawn(side: Side, mode_N: np.ndarray) -> np.ndarray:
            return np.array([of(side.sample.features[draw], mode_N[draw]) for draw in draws(np.arange(len(mode_N)))])

        values = drawn(sides.generated, generated)
        error = float(values.std(ddof=1)) / len(values) ** 0.5
        estimate = Estimate.symmetric(float(values.mean()), error)
        return measurement(statistic, label, estimate, Estimate.spread(drawn(sides.pool, pool)), **more)

    within = f"within {REACH:g} σ of a mode"
    return [
        compared("modes", f"modes found by {rows:,} events", lambda _, of: found(of)),
        sides.fraction("high_quality", within, generated >= 0, truth >= 0, confidence=confidence),
        compared("reverse_kl", "reverse KL of the modes", lambda _, of: reverse_kl(of, number)),
        compared("mode_width", "width of a mode", lambda points, of: width(points, of, what.sigma), unit="σ"),
    ]


def modes_of(points_ND: np.ndarray, what: Modes) -> np.ndarray:
    """The number of the mode that each row belongs to, (N,) int; -1 for rows beyond three standard deviations."""
    squared_N, nearest_N = np.full(len(points_ND), np.inf), np.zeros(len(points_ND), dtype=np.int64)
    for number, centre in enumerate(what.centres):
        square_N = np.square(points_ND.astype(np.float64) - centre).sum(axis=1)
        nearer_N = square_N < squared_N
        squared_N[nearer_N], nearest_N[nearer_N] = square_N[nearer_N], number
    return np.where(squared_N <= (REACH * what.sigma) ** 2, nearest_N, -1)


def draws(mode_N: np.ndarray) -> np.ndarray:
    """Disjoint samples of 2,500 rows, or of a quarter of the rows where these are fewer, (draws, rows)."""
    rows = min(DRAW, len(mode_N) // _LEAST_DRAWS)
    return mode_N[: len(mode_N) // rows * rows].reshape(-1, rows)


def found(mode_N: np.ndarray) -> int:
    """How many modes have at least one row."""
    return len(np.unique(mode_N[mode_N >= 0]))


def width(points_ND: np.ndarray, mode_N: np.ndarray, sigma: float) -> float:
    """Standard deviation of the rows around the mean of their mode, in units of `sigma`; NaN without such rows.

    Rows of high quality count, so that it is 0.97, not 1, for a perfect sample in two dimensions.
    """
    squares, freedom = 0.0, 0
    for mode in np.unique(mode_N[mode_N >= 0]):
        rows = points_ND[mode_N == mode].astype(np.float64)
        squares += float(np.square(rows - rows.mean(axis=0)).sum())
        freedom += (len(rows) - 1) * points_ND.shape[1]
    return (squares / freedom) ** 0.5 / sigma if freedom else float("nan")


def reverse_kl(mode_N: np.ndarray, modes: int) -> float:
    """KL divergence of the shares of the modes among rows of high quality from equal shares, log K - H [nat].

    For N rows of high quality it is (K - 1) / 2 N on average where all shares are equal; NaN without any such row.
    """
    counts_K = np.bincount(mode_N[mode_N >= 0], minlength=modes)
    if not counts_K.any():
        return float("nan")
    share_K = counts_K[counts_K > 0] / counts_K.sum()
    return float(np.log(modes) + share_K @ np.log(share_K))
