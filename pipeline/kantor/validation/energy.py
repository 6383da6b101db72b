"""The energy distance between generated and true rows, with its statistical error.

It needs torch and kantor_kernels only, for training chooses checkpoints with it. Columns are always divided by the
truth's weighted standard deviation first, since a joint distance would otherwise be that of the column with the
largest numbers. Shapes: N generated rows, M true rows, D columns.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

import kantor_kernels
from kantor.resolution import cancel, is_constant

Array: TypeAlias = np.ndarray | Tensor


def energy_distance_estimate(
    x: Array, y: Array, weight_x: Array | None = None, weight_y: Array | None = None
) -> tuple[float, float]:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| and its standard error.

    The U estimator: unbiased, so around zero, and as often negative as not, for equal distributions. The error is the
    first-order one of its influence function, sum a_i^2 h_i^2 with h(x) = 2 (E|x - y| - E|x - x'|) less its mean.
    Near equality h vanishes, what is left of it is noise, and the plain formula gives twice the variance. That excess
    is the variance at equality, known from the distance variances (Szekely, Rizzo and Bakirov, arXiv:0803.4101), and
    is taken off; the error is never less than the one at equality, which makes it some 20 % too large there.

    Args:
        x: (N, D) generated rows.
        y: (M, D) true rows; its weighted standard deviation is the unit of each column.
        weight_x: (N,) of either sign, or None.
        weight_y: (M,).

    Returns:
        (value, error), in units of the truth's standard deviations.

    Raises:
        ValueError: shapes disagree, fewer than two rows, or weights that sum to zero.
    """
    x_ND, y_MD = standardised(x, y, weight_y)
    first, second = _weights(weight_x, x_ND), _weights(weight_y, y_MD)
    within_x, within_y = _Within.of(x_ND, first), _Within.of(y_MD, second)
    to_y_N = _mean_distance(x_ND, y_MD, second)
    to_x_M = _mean_distance(y_MD, x_ND, first)
    cross = float(first @ to_y_N)
    value = 2 * cross - within_x.mean - within_y.mean

    plain = _variance(2 * (to_y_N - within_x.distance), first) + _variance(2 * (to_x_M - within_y.distance), second)
    spread = _mean_square(x_ND, first) + _mean_square(y_MD, second) + _shift_squared(x_ND, y_MD, first, second)
    cross_variance = spread - float(first @ to_y_N**2) - float(second @ to_x_M**2) + cross**2
    kappa_x, kappa_y = float(first @ first), float(second @ second)
    noise = (
        2 * within_x.distance_variance * kappa_x**2
        + 2 * within_y.distance_variance * kappa_y**2
        + 4 * max(cross_variance, 0.0) * kappa_x * kappa_y
    )
    return value, max(plain - noise, noise) ** 0.5


@dataclass(frozen=True)
class PermutationTest:
    """Energy distances (V) of two samples, and of random relabellings of their pooled rows."""

    statistic: float
    null: np.ndarray

    @property
    def p_value(self) -> float:
        """Fraction of labellings, the actual one among them, with at least this distance."""
        return (1 + int((self.null >= self.statistic).sum())) / (1 + len(self.null))


def permutation_test(
    x: Array, y: Array, weight_x: Array | None, weight_y: Array | None, *, permutations: int, seed: int
) -> PermutationTest:
    """Relabel the pooled rows at random; weights travel with their rows.

    Source: Gretton et al., JMLR 13 (2012) 723, section 7.
    """
    x_ND, y_MD = standardised(x, y, weight_y)
    result = kantor_kernels.two_sample_test(
        x_ND,
        y_MD,
        permutations=permutations,
        weight_x=_float32(weight_x),
        weight_y=_float32(weight_y),
        generator=torch.Generator().manual_seed(seed),
    )
    return PermutationTest(result.statistic, result.null.numpy())


def split_distances(rows: Array, weights: Array | None, first: np.ndarray) -> np.ndarray:
    """Energy distances (U) between random halves of one sample, all in one pass over its pairs.

    The pass gives V values. V - U = E|x - x'| sum a^2 + E|y - y'| sum b^2, where both mean distances are taken from
    the whole sample: for random halves that is true up to a relative 1 / sqrt(n).

    Args:
        rows: (K, D).
        weights: (K,) or None.
        first: (S, K) bool, which rows make the first half of each split.

    Returns:
        (S,) float64.
    """
    z_KD, _ = standardised(rows, rows, weights)
    w = torch.ones(len(z_KD), dtype=torch.float64) if weights is None else torch.as_tensor(weights).double()
    mean = _Within.of(z_KD, w / w.sum()).mean
    half = int(first[0].sum())
    result = kantor_kernels.two_sample_test(
        z_KD[:half],
        z_KD[half:],
        permutations=torch.from_numpy(first),
        weight_x=None if weights is None else w[:half].float(),
        weight_y=None if weights is None else w[half:].float(),
        normalise=False,  # the halves are of one sample
    )
    first_SK = torch.from_numpy(first).double()
    kappa = sum((side @ w**2) / (side @ w) ** 2 for side in (first_SK, 1 - first_SK))
    return (result.null - mean * kappa).numpy()


def standardised(x: Array, y: Array, weight_y: Array | None = None) -> tuple[Tensor, Tensor]:
    """Both samples less the truth's weighted mean, in its weighted standard deviations, as float32.

    A signed variance that is not positive is replaced by the unweighted one. Columns that are constant in truth are
    left out: they have no unit, and a distance in units of rounding errors would drown all others.

    Raises:
        ValueError: no column is left.
    """
    x_ND, y_MD = torch.as_tensor(x).double(), torch.as_tensor(y).double()
    varying_D = ~is_constant(y_MD.amin(0), y_MD.amax(0))
    if not varying_D.any():
        raise ValueError("every column of the true rows is constant: there is no distance")
    x_ND, y_MD = x_ND[:, varying_D], y_MD[:, varying_D]
    b_M = _weights(weight_y, y_MD)
    mean_D = b_M @ y_MD
    variance_D = b_M @ (y_MD - mean_D) ** 2
    variance_D = torch.where(variance_D > 0, variance_D, y_MD.var(0, correction=0))
    scale_D = variance_D.sqrt()
    return ((x_ND - mean_D) / scale_D).float(), ((y_MD - mean_D) / scale_D).float()


@dataclass(frozen=True)
class _Within:
    """Distances within one sample: each row's mean distance to the others, the mean, the distance variance."""

    distance: Tensor
    mean: float
    distance_variance: float

    @classmethod
    def of(cls, x_ND: Tensor, a_N: Tensor) -> "_Within":
        total_N = _mean_distance(x_ND, x_ND, a_N)
        distance_N = total_N / (1 - a_N)
        mean = float(a_N @ total_N) / float(1 - a_N @ a_N)
        variance = 2 * _mean_square(x_ND, a_N) - 2 * float(a_N @ distance_N**2) + mean**2
        return cls(distance_N, mean, max(variance, 0.0))


def _mean_distance(x_ND: Tensor, y_MD: Tensor, b_M: Tensor) -> Tensor:
    """sum_j b_j |x_i - y_j| as (N,) float64."""
    # Times M, for weights of order one: the kernel takes them in float32.
    scaled = (b_M * len(b_M)).float()
    return -kantor_kernels.kernel_potential(x_ND, y_MD, scaled, normalise=False).double() / len(b_M)


def _variance(h_N: Tensor, a_N: Tensor) -> float:
    """Variance of sum_i a_i h_i for normalised weights a, the mean of h being unknown."""
    return float((a_N**2) @ (h_N - a_N @ h_N) ** 2) * len(a_N) / (len(a_N) - 1)


def _mean_square(x_ND: Tensor, a_N: Tensor) -> float:
    """sum_i a_i |x_i - mean|^2."""
    x_ND = x_ND.double()
    return float(a_N @ ((x_ND - a_N @ x_ND) ** 2).sum(1))


def _shift_squared(x_ND: Tensor, y_MD: Tensor, a_N: Tensor, b_M: Tensor) -> float:
    return float(((a_N @ x_ND.double() - b_M @ y_MD.double()) ** 2).sum())


def _weights(weight: Array | None, rows: Tensor) -> Tensor:
    """Normalised weights in float64."""
    if weight is None:
        return torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    w_N = torch.as_tensor(weight).double()
    if len(w_N) != len(rows):
        raise ValueError(f"{len(rows)} rows have {len(w_N)} weights")
    total = float(w_N.sum())
    if cancel(total, float(w_N.abs().sum())):
        raise ValueError("the weights sum to zero: the energy distance is undefined")
    return w_N / total


def _float32(weight: Array | None) -> Tensor | None:
    return None if weight is None else torch.as_tensor(weight).float()
