"""sWeights of a signal on a background (Pivk and Le Diberder, arXiv:physics/0402083).

The discriminating variable is a mass in a window, with a Gaussian signal on a falling exponential; fractions and
densities are known, not fitted. In terms of fractions pi_j and densities f_j of signal and background the weight is

    w(m) = (V_ss f_s + V_sb f_b) / (pi_s f_s + pi_b f_b),    (V^-1)_ij = integral f_i f_j / (pi_s f_s + pi_b f_b) dm,

the sum over events being replaced by what it estimates, so that a weight depends on its own event only. Then the mean
of w is 1 for signal and 0 for background, whatever else is known of an event. Shapes: N events.
"""

import numpy as np
from scipy.special import ndtr, ndtri

WINDOW = (1815.0, 1915.0)  # [MeV]
_MASS, _WIDTH, _SLOPE = 1865.0, 8.0, 80.0  # [MeV]
_NODES = 400

_LOW, _HIGH = WINDOW
# Parts of the Gaussian below and above the window's ends, and of the exponential inside.
_BELOW, _ABOVE = ndtr((_LOW - _MASS) / _WIDTH), ndtr((_HIGH - _MASS) / _WIDTH)
_INSIDE = -np.expm1(-(_HIGH - _LOW) / _SLOPE)


def draw_masses(is_background_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mass [MeV] for each event, (N,)."""
    level_N = rng.random(len(is_background_N))
    signal_N = _MASS + _WIDTH * ndtri(_BELOW + level_N * (_ABOVE - _BELOW))
    background_N = _LOW - _SLOPE * np.log1p(-level_N * _INSIDE)
    return np.where(is_background_N, background_N, signal_N)


def sweights(mass_N: np.ndarray, background: float) -> np.ndarray:
    """The signal's weight of each event, (N,).

    Args:
        mass_N: [MeV].
        background: the background's fraction of all events, in (0, 1).
    """
    fractions = np.array([1 - background, background])
    nodes_Q, steps_Q = np.polynomial.legendre.leggauss(_NODES)
    f_2Q = densities(_LOW + (_HIGH - _LOW) * (nodes_Q + 1) / 2)
    inverse = (f_2Q * steps_Q * (_HIGH - _LOW) / 2 / (fractions @ f_2Q)) @ f_2Q.T
    f_2N = densities(mass_N)
    return np.linalg.inv(inverse)[0] @ f_2N / (fractions @ f_2N)


def densities(mass_N: np.ndarray) -> np.ndarray:
    """Of signal and background inside the window [1/MeV], (2, N)."""
    signal_N = np.exp(-(((mass_N - _MASS) / _WIDTH) ** 2) / 2) / (np.sqrt(2 * np.pi) * _WIDTH * (_ABOVE - _BELOW))
    background_N = np.exp(-(mass_N - _LOW) / _SLOPE) / (_SLOPE * _INSIDE)
    return np.stack([signal_N, background_N])
