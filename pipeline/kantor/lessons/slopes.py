"""A discriminator saturates where a Wasserstein critic is a straight line (Arjovsky et al., arXiv:1701.07875, fig. 2).

Real events are N(-2, 1), generated ones N(2, 1). The best discriminator is D = p / (p + q) = 1 / (1 + exp(4 x)), whose
slope at the generated mean is 4 exp(-8) of its slope between the two; the best critic of slope 1 is f = -x, and
E f(real) - E f(generated) = W1 = 4. The penalty moves the best slope (see `penalised_slope`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from kantor.lessons import critics
from kantor.lessons.base import Number, mean
from kantor.losses import Batch
from kantor.models.randomness import stream

CENTRE = 2.0
_NETWORK = {"width": 64, "depth": 3}
CRITICS: dict[str, dict[str, Any]] = {
    "discriminator": {"objective": {"kind": "gan"}, "critic_optimiser": critics.ADAM},
    "clipped critic": {"objective": {"kind": "wgan"}},  # with the paper's RMSProp
    "penalised critic": {"objective": {"kind": "wgan_gp"}, "critic_optimiser": critics.ADAM},
}


@dataclass(frozen=True)
class Size:
    seeds: int = 5
    updates: int = 1000
    batch: int = 256


@dataclass(frozen=True)
class Slopes:
    """x (N,); by critic, (seeds, N): values D(x) or f(x), and |dD/dx| or |df/dx|."""

    numbers: Sequence[Number]
    x: np.ndarray
    values: dict[str, np.ndarray]
    slopes: dict[str, np.ndarray]


def run(size: Size = Size()) -> Slopes:
    x = np.linspace(-4, 4, 81)
    learned = {
        name: [_learned(settings, size, seed, x) for seed in range(1, size.seeds + 1)]
        for name, settings in CRITICS.items()
    }
    values = {name: np.array([one[0] for one in of]) for name, of in learned.items()}
    slopes = {name: np.array([one[1] for one in of]) for name, of in learned.items()}
    numbers = [Number("discriminator, exact: slope at x = 0", 1.0), Number("W1, exact", 2 * CENTRE)]
    numbers.append(Number("discriminator, exact: slope at x = 2", 4 / (2 + np.exp(8) + np.exp(-8))))
    wide = np.linspace(-10, 10, 2001)
    best = np.trapezoid(_apart(wide) * penalised_slope(wide), wide)
    numbers.append(Number("penalised critic, exact: distance", float(best), how="quadrature"))
    for name, of in slopes.items():
        middle, generated = (of[:, np.abs(x - where).argmin()] for where in (0.0, CENTRE))
        numbers.append(mean(f"{name}: slope at x = 0", middle))
        numbers.append(mean(f"{name}: slope at x = 2", generated))
        numbers.append(mean(f"{name}: slope at x = 2 over that at x = 0", generated / middle))
    numbers.append(mean("penalised critic: distance", [one[2] for one in learned["penalised critic"]]))
    return Slopes(numbers, x, values, slopes)


def discriminator(x: np.ndarray) -> np.ndarray:
    """The best D."""
    return 1 / (1 + np.exp(2 * CENTRE * x))


def penalised_slope(x: np.ndarray, weight: float = 10.0) -> np.ndarray:
    """|f'| of the best penalised critic: it maximises integral s (P - Q) - weight integral r (s - 1)^2 over s = -f'.

    P, Q: distribution functions of real and generated events; r: density of the points between them, where the penalty
    is taken. So s = 1 + (P - Q) / (2 weight r).
    """
    u = (np.arange(400) + 0.5) / 400
    between = norm.pdf(x[:, None], CENTRE * (2 * u - 1), np.hypot(u, 1 - u)).mean(axis=1)
    return 1 + _apart(x) / (2 * weight * between)


def _apart(x: np.ndarray) -> np.ndarray:
    """P - Q, whose integral is W1."""
    return norm.cdf(x + CENTRE) - norm.cdf(x - CENTRE)


def _learned(settings: dict[str, Any], size: Size, seed: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Values and absolute slopes at x, and E f(real) - E f(generated) over 100,000 events of each."""
    state, objective = critics.fresh({**settings, "critic": _NETWORK}, 1, seed)
    for _ in critics.updates(state, objective, _batches(size, seed)):
        pass
    score, slope = critics.slopes(state, torch.from_numpy(x).float()[:, None])
    value, slope = score.numpy(), slope.abs().squeeze(1).numpy()
    if settings["objective"]["kind"] == "gan":
        # A probability from a logit, and the chain rule.
        value = 1 / (1 + np.exp(-value))
        slope = slope * value * (1 - value)
    events = torch.randn(100_000, 1, generator=stream(seed, "slopes, distance", 0))
    with torch.no_grad():
        distance = (critics.values(state, events - CENTRE) - critics.values(state, events + CENTRE)).mean()
    return value, slope, float(distance)


def _batches(size: Size, seed: int) -> Iterator[Batch]:
    for update in range(size.updates):
        random = stream(seed, "slopes", update)
        real, fake = torch.randn(2, size.batch, 1, generator=random)
        yield critics.batch(real - CENTRE, fake + CENTRE, random)
