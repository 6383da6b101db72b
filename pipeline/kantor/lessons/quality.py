"""A loss that follows quality, and one that does not (Arjovsky et al., arXiv:1701.07875, figs. 3 and 4).

The same networks learn a ring of eight Gaussians with Kantor's own loop, as a Wasserstein GAN with penalty and as the
minimax GAN. Beside the critic's distance stands the energy distance to held-out events, which neither critic sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from kantor import config
from kantor.config import Training
from kantor.data.sources.toys import Ring
from kantor.lessons import critics
from kantor.lessons.base import Number, mean
from kantor.models.features import CriticFeatures
from kantor.models.randomness import stream
from kantor.models.transforms import Transforms
from kantor.training.feed import Feed, Rows
from kantor.training.loop import LastUpdate, train
from kantor.training.state import State
from kantor_kernels import energy_distance

OBJECTIVES: dict[str, dict[str, Any]] = {
    "Wasserstein with penalty": {"kind": "wgan_gp", "penalty": {"weight": 0.1}},
    "minimax GAN": {"kind": "gan"},
}
_EVENTS, _HELD_OUT, _LATENT = 20_000, 2000, 2


@dataclass(frozen=True)
class Size:
    """steps: generator updates; every: updates between evaluations, over which the critic's distance is averaged."""

    seeds: int = 4
    steps: int = 600
    every: int = 20
    batch: int = 256
    width: int = 64


@dataclass(frozen=True)
class Quality:
    """steps (K,); by objective, (seeds, K): the critic's distance and the energy distance [units of the plane]."""

    numbers: Sequence[Number]
    steps: np.ndarray
    distances: dict[str, np.ndarray]
    qualities: dict[str, np.ndarray]


def run(size: Size = Size()) -> Quality:
    seeds = range(1, size.seeds + 1)
    # (objectives, seeds, 2, K)
    found = np.array([[_trained(objective, size, seed) for seed in seeds] for objective in OBJECTIVES.values()])
    distances, qualities = (dict(zip(OBJECTIVES, found[:, :, k], strict=True)) for k in (0, 1))
    numbers = []
    for name in OBJECTIVES:
        pairs = zip(distances[name], qualities[name], strict=True)
        numbers.append(
            mean(f"{name}: rank correlation of its distance with the energy distance", [_rank(*p) for p in pairs])
        )
        numbers.append(mean(f"{name}: distance at the end", distances[name][:, -1]))
        numbers.append(mean(f"{name}: energy distance at the end", qualities[name][:, -1]))
    return Quality(numbers, np.arange(size.every, size.steps + 1, size.every), distances, qualities)


def _rank(distances: np.ndarray, qualities: np.ndarray) -> float:
    """Spearman's."""
    return float(stats.spearmanr(distances, qualities)[0])  # pyright: ignore[reportArgumentType]


def _trained(objective: dict[str, Any], size: Size, seed: int) -> np.ndarray:
    """(2, K): the critic's distances and the energy distances of a training."""
    network = {"width": size.width, "depth": 3, "activation": "relu"}
    optimisers = {f"{of}_optimiser": critics.ADAM | {"schedule": "cosine"} for of in ("critic", "generator")}
    settings = Training.model_validate(
        {
            "dataset": "ring",
            "objective": objective,
            "critic": network,
            "generator": network | {"latent": _LATENT},
            "n_critic": 5,
            "batch": size.batch,
            "steps": size.steps,
            **optimisers,
        }
    )
    state, loss = critics.fresh(settings.model_dump(), 2, seed)
    ring = config.RingSource(kind="ring", events=_EVENTS + _HELD_OUT, sigma=0.05, seed=seed)
    events = torch.from_numpy(Ring(ring, 0).generate(0)).float()
    truth, rows = events[:_HELD_OUT], events[_HELD_OUT:]
    noise = torch.randn(_HELD_OUT, _LATENT, generator=stream(seed, "quality", 0))
    window: list[float] = []
    found: list[tuple[float, float]] = []

    def evaluate(state: State, last: LastUpdate) -> None:
        window.append(last.joined()[2])
        if state.step % size.every == 0:
            with torch.no_grad():
                generated = state.generator(noise, noise.new_empty(_HELD_OUT, 0))
                quality = energy_distance(generated, truth, estimator="u")
            found.append((float(np.mean(window)), float(quality)))
            window.clear()

    feed = Feed(Rows(rows, rows.new_empty(len(rows), 0), None), batch=size.batch, latent=_LATENT, seed=seed)
    view = CriticFeatures({}, Transforms([], {}), Transforms([], {}))
    train(settings, state, loss, feed, view, evaluate)
    return np.array(found).T
