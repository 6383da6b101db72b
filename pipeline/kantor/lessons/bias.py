"""Sample Wasserstein gradients are biased, Cramér's are not (Bellemare et al., arXiv:1705.10743, section 3).

A gradient step sees a batch, not the distribution; what is minimised on average is the expected loss of a batch.

1. Bernoulli(theta) to Bernoulli(theta*), of which a batch of m has the fraction t. W1 is |t - theta|, whose expectation
   has its minimum at the median of t instead of theta*; Cramér's (t - theta)^2 has it at the mean of t, theta*.
2. A generator with one parameter, the mean lifetime tau of exponential decays, to tau* = 1; both sides are
   batches of m.

Everything is enumerated or integrated, but for the gradients of Kantor's own energy distance, which are sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from kantor.lessons.base import Number, mean
from kantor.models.randomness import stream
from kantor_kernels import energy_distance

TRUTHS = (0.6, 0.9)
START, RATE = 0.5, 0.01  # of gradient descent; the rate divides the unit interval


@dataclass(frozen=True)
class Size:
    """How much is computed. sizes: batch sizes m; updates: of gradient descent; draws: batches of sampled gradients."""

    sizes: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256)
    updates: int = 600
    draws: int = 20_000


@dataclass(frozen=True)
class Descent:
    """Gradient descent from batches of one event: mean and standard deviation of theta after each update, exact."""

    truth: float
    loss: str  # "Wasserstein" or "Cramér"
    updates: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Bias:
    """theta: where `losses[m]`, the expected sample W1 to Bernoulli(0.6), is given; minima by batch size."""

    numbers: Sequence[Number]
    theta: np.ndarray
    losses: dict[int, np.ndarray]
    sizes: tuple[int, ...]
    minima: dict[float, np.ndarray]  # theta* -> minimiser of the expected sample W1 for each size
    descents: list[Descent]
    pairs: tuple[int, ...]  # the sizes above one: without a pair there is no unbiased energy distance
    lifetimes: dict[str, np.ndarray]  # loss -> minimiser of its expectation for each of `pairs`; tau* = 1


def run(size: Size = Size()) -> Bias:
    theta = np.linspace(0, 1, 201)
    pairs = tuple(m for m in size.sizes if m > 1)
    minima = {truth: np.array([bernoulli_minimum(truth, m) for m in size.sizes]) for truth in TRUTHS}
    lifetimes = {
        "W1": np.array([wasserstein_lifetime(m) for m in pairs]),
        "energy distance, biased": np.array([biased_energy_lifetime(m) for m in pairs]),
        "energy distance, unbiased": np.ones(len(pairs)),
    }
    return Bias(
        [*_bernoulli_numbers(minima, size.sizes), *_lifetime_numbers(lifetimes, pairs), *_sampled(size.draws)],
        theta,
        {m: expected_loss(TRUTHS[0], m, theta) for m in (1, 4, 16)},
        size.sizes,
        minima,
        [descent(truth, size.updates) for truth in TRUTHS for descent in (wasserstein_descent, cramer_descent)],
        pairs,
        lifetimes,
    )


def expected_loss(truth: float, m: int, theta: np.ndarray) -> np.ndarray:
    """E |t - theta| over the fractions t of batches of m."""
    k = np.arange(m + 1)
    return np.abs(k[:, None] / m - theta).T @ binom.pmf(k, m, truth)


def bernoulli_minimum(truth: float, m: int) -> float:
    """The median of the fraction t."""
    return float(binom.ppf(0.5, m, truth)) / m


def expected_gradient(truth: float, m: int) -> float:
    """E sign(theta - t) at theta = theta*; without bias it would be 0."""
    k = np.arange(m + 1)
    # t = theta* itself has the subgradient 0; k is compared with a rounded product.
    return float(binom.pmf(k, m, truth) @ np.sign(np.round(m * truth - k, 9)))


def wasserstein_descent(truth: float, updates: int) -> Descent:
    """theta - rate x sign(theta - t) for batches of one: a random walk, its probabilities propagated."""
    lattice = np.linspace(0, 1, round(1 / RATE) + 1)
    p = (np.abs(lattice - START) < RATE / 2).astype(float)
    moments = []
    for _ in range(updates + 1):
        moments.append((p @ lattice, p @ lattice**2))
        up, down = truth * p, (1 - truth) * p
        p = np.concatenate([[0], up[:-1]]) + np.concatenate([down[1:], [0]])
        # At t itself the subgradient is 0: the walk stays.
        p[0] += down[0]
        p[-1] += up[-1]
    first, second = np.array(moments).T
    return _thinned(truth, "Wasserstein", first, second - first**2)


def cramer_descent(truth: float, updates: int) -> Descent:
    """theta - rate x 2 (theta - t) for batches of one: moments of a linear recursion."""
    kept = 1 - 2 * RATE
    step = np.arange(updates + 1)
    variance = (1 - kept ** (2 * step)) / (1 - kept**2) * (2 * RATE) ** 2 * truth * (1 - truth)
    return _thinned(truth, "Cramér", truth + (START - truth) * kept**step, variance)


def _thinned(truth: float, loss: str, means: np.ndarray, variances: np.ndarray) -> Descent:
    step = np.arange(0, len(means), 20)
    return Descent(truth, loss, step, means[step], np.sqrt(np.maximum(variances[step], 0)))


def wasserstein_loss(tau: float, m: int) -> float:
    """E W1 between batches of m decays of mean lifetimes 1 and tau, to 1e-6 by quadrature.

    W1 = integral |A(x) - B(x)| / m dx with binomial counts A, B of decays before x, and |A - B| is the number of
    k < m with exactly one of A <= k, B <= k.
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    # x = reach t^2: nodes are close where lifetimes are.
    reach, t = 40.0, (nodes + 1) / 2
    x, dx = reach * t**2, reach * t * weights
    k = np.arange(m)[:, None]
    below, other = binom.cdf(k, m, -np.expm1(-x)), binom.cdf(k, m, -np.expm1(-x / tau))
    return float((below * (1 - other) + other * (1 - below)).sum(axis=0) @ dx) / m


def wasserstein_lifetime(m: int) -> float:
    """The lifetime with the least expected sample W1."""
    found = minimize_scalar(wasserstein_loss, bounds=(0.05, 2), args=(m,), method="bounded", options={"xatol": 1e-7})
    return float(found.x)  # pyright: ignore[reportAttributeAccessIssue]


def biased_energy_lifetime(m: int) -> float:
    """As above for the energy distance whose means over pairs include each event with itself (estimator "v").

    Its expectation is 1 + tau - 4 tau / (1 + tau) + (1 + tau) / m; without these pairs, the last term is not there.
    """
    return 2 / (1 + 1 / m) ** 0.5 - 1


def sampled_gradients(m: int, draws: int, seed: int = 1) -> dict[str, np.ndarray]:
    """d loss / d tau at tau = tau* for `draws` batches, loss -> (draws,); energy distances are the kernels'."""
    random = stream(seed, "lifetimes", m)
    real_NM, unit_NM = (torch.empty(draws, m, dtype=torch.float64).exponential_(generator=random) for _ in range(2))
    tau = torch.ones(draws, 1, dtype=torch.float64, requires_grad=True)
    generated_NM = tau * unit_NM
    pairs = generated_NM.unsqueeze(-1), real_NM.unsqueeze(-1)
    losses_N = {
        "W1": (real_NM.sort(dim=1).values - generated_NM.sort(dim=1).values).abs().mean(dim=1),
        "energy distance, biased": energy_distance(*pairs, estimator="v"),
        "energy distance, unbiased": energy_distance(*pairs, estimator="u"),
    }
    return {
        name: torch.autograd.grad(loss_N.sum(), tau, retain_graph=True)[0].squeeze(1).numpy()
        for name, loss_N in losses_N.items()
    }


def _bernoulli_numbers(minima: dict[float, np.ndarray], sizes: Sequence[int]) -> list[Number]:
    numbers = []
    for truth, found in minima.items():
        for m in (1, 4, 16, 64):
            if m in sizes:
                where = f"Bernoulli, theta* = {truth}, m = {m}"
                numbers.append(Number(f"{where}: minimum of W1", float(found[sizes.index(m)])))
                numbers.append(Number(f"{where}: gradient of W1 at theta*", expected_gradient(truth, m)))
    return numbers


def _lifetime_numbers(lifetimes: dict[str, np.ndarray], sizes: Sequence[int]) -> list[Number]:
    return [
        Number(f"lifetime, m = {m}: minimum of {loss}", float(found[sizes.index(m)]), how=how)
        for (loss, found), how in zip(lifetimes.items(), ("quadrature", "exact", "exact"), strict=True)
        for m in (2, 4, 16, 64, 256)
        if m in sizes
    ]


def _sampled(draws: int) -> list[Number]:
    return [
        mean(f"lifetime, m = {m}: gradient of {loss} at tau*", values, "batches")
        for m in (4, 16)
        for loss, values in sampled_gradients(m, draws).items()
    ]
