"""Clipped weights end at the clip and make simple functions (Gulrajani et al., arXiv:1704.00028, section 3, fig. 1).

As there: critics learn against a generator that stands still at real events with normal noise of deviation 1, here for
eight Gaussians on a circle of radius 2. Only the critics' constraint differs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor import config
from kantor.data.sources.toys import Ring
from kantor.lessons import critics
from kantor.lessons.base import Number, mean
from kantor.losses import Batch
from kantor.models.randomness import stream
from kantor.training.state import State

RADIUS, MODES = 2.0, 8
_EVENTS = 20_000
CRITICS: dict[str, dict[str, Any]] = {
    # The paper's clip with the paper's optimiser.
    "clipped": {"objective": {"kind": "wgan", "clip": 0.01}},
    "penalised": {"objective": {"kind": "wgan_gp"}, "critic_optimiser": critics.ADAM},
}


@dataclass(frozen=True)
class Size:
    seeds: int = 5
    updates: int = 1500
    batch: int = 256
    width: int = 64


@dataclass(frozen=True)
class Clipping:
    """axis (G,): where the surfaces are given, in x and in y; by critic: values of the first seed, surfaces (G, G) with
    y down the rows, and the weights of all matrices and seeds."""

    numbers: Sequence[Number]
    axis: np.ndarray
    surfaces: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


def run(size: Size = Size()) -> Clipping:
    axis = np.linspace(-3, 3, 41)
    numbers, surfaces, weights = [], {}, {}
    for name, settings in CRITICS.items():
        trained = [_trained(settings, size, seed) for seed in range(1, size.seeds + 1)]
        each = [
            np.concatenate([p.detach().flatten() for p in state.critic.parameters() if p.ndim == 2])
            for state in trained
        ]
        numbers += [
            mean(f"{name}: weights within 1 % of the largest", [_at_the_end(of) for of in each]),
            mean(f"{name}: gradient norm by the event, between real and generated", [_norm(s) for s in trained]),
        ]
        surfaces[name], weights[name] = _surface(trained[0], axis), np.concatenate(each)
    return Clipping(numbers, axis, surfaces, weights)


def _trained(settings: dict[str, Any], size: Size, seed: int) -> State:
    network = {"width": size.width, "depth": 3, "activation": "relu"}
    state, objective = critics.fresh({**settings, "critic": network}, 2, seed)
    for _ in critics.updates(state, objective, _batches(size, seed)):
        pass
    return state


def _batches(size: Size, seed: int) -> Iterator[Batch]:
    for update in range(size.updates):
        random = stream(seed, "clipping", update)
        real, fake = _pairs(size.batch, random)
        yield critics.batch(real, fake, random)


def _pairs(rows: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Real events, and others with noise of deviation 1, both (rows, 2)."""
    events = _real()
    real, other = events[torch.randint(len(events), (2, rows), generator=random)]
    return real, other + torch.randn(rows, 2, generator=random)


def _real() -> Tensor:
    settings = config.RingSource(kind="ring", events=_EVENTS, modes=MODES, radius=RADIUS, sigma=0.02)
    return torch.from_numpy(Ring(settings, 0).generate(0)).float()


def _at_the_end(weights: np.ndarray) -> float:
    size = np.abs(weights)
    return float((size > 0.99 * size.max()).mean())


def _norm(state: State) -> float:
    random = stream(1, "clipping, norms", 0)
    real, fake = _pairs(4000, random)
    between = torch.lerp(real, fake, torch.rand(4000, 1, generator=random))
    return float(critics.slopes(state, between)[1].norm(dim=1).mean())


@torch.no_grad()
def _surface(state: State, axis: np.ndarray) -> np.ndarray:
    x, y = np.meshgrid(axis, axis)
    points = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1)).float()
    return critics.values(state, points).reshape(x.shape).numpy()
