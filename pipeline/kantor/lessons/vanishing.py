"""The better the discriminator, the smaller the generator's gradient (Arjovsky and Bottou, arXiv:1701.04862, fig. 2).

As there: the generator stands still, a critic learns against it from scratch, and meanwhile the gradient of the
generator's loss by the generator's parameters is measured. Theorem 2.4: with the minimax loss its norm is of the order
of the discriminator's distance from the perfect one. True events are eight narrow Gaussians on a circle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kantor import config
from kantor.data.sources.toys import Ring
from kantor.lessons import critics
from kantor.lessons.base import Number, mean
from kantor.losses import Batch, Objective
from kantor.models.randomness import stream
from kantor.training.state import State

# Which critic learns, and whose loss the generator would descend.
LOSSES: dict[str, tuple[str, str]] = {
    "minimax, log(1 − D)": ("gan", "gan"),
    "non-saturating, −log D": ("gan", "ns_gan"),
    "Wasserstein with penalty": ("wgan_gp", "wgan_gp"),
}
_NETWORKS = {"generator": {"width": 64, "depth": 3, "latent": 2}, "critic": {"width": 64, "depth": 3}}
_EVENTS = 20_000


@dataclass(frozen=True)
class Size:
    seeds: int = 5
    updates: int = 1000
    batch: int = 256


@dataclass(frozen=True)
class Vanishing:
    """updates (K,): of the critic, when gradients were measured; norms: by loss, (seeds, K)."""

    numbers: Sequence[Number]
    updates: np.ndarray
    norms: dict[str, np.ndarray]


def run(size: Size = Size()) -> Vanishing:
    when = np.unique(np.geomspace(10, size.updates, 25).round().astype(int))
    seeds = range(1, size.seeds + 1)
    norms: dict[str, np.ndarray] = {}
    for critic in dict.fromkeys(critic for critic, _ in LOSSES.values()):
        losses = {name: loss for name, (which, loss) in LOSSES.items() if which == critic}
        found = np.array(
            [list(_norms(critic, list(losses.values()), size, seed, set(when.tolist()))) for seed in seeds]
        )
        norms |= {name: found[:, :, k] for k, name in enumerate(losses)}
    numbers = [
        mean(f"{name}: decades that the gradient's norm grows, {when[0]} to {when[-1]} updates", _decades(of))
        for name, of in norms.items()
    ]
    return Vanishing(numbers, when, norms)


def _decades(norms: np.ndarray) -> np.ndarray:
    """log10 of last over first, for each seed."""
    return np.log10(norms[:, -1] / norms[:, 0])


def _norms(critic: str, losses: Sequence[str], size: Size, seed: int, when: set[int]) -> Iterator[list[float]]:
    """The norms of the losses' gradients by the generator's parameters, after the numbers of updates in `when`."""
    state, objective = critics.fresh(
        {"objective": {"kind": critic}, "critic_optimiser": critics.ADAM, **_NETWORKS}, 2, seed
    )
    others = [critics.fresh({"objective": {"kind": loss}}, 2, seed)[1] for loss in losses]
    probe = torch.randn(4000, 2, generator=stream(seed, "vanishing, probe", 0))
    for done in critics.updates(state, objective, _batches(state, size, seed)):
        if done in when:
            yield [_norm(state, other, probe) for other in others]


def _norm(state: State, objective: Objective, z_BL: Tensor) -> float:
    nothing = z_BL.new_empty(len(z_BL), 0)
    fake = state.generator(z_BL, nothing)
    loss = objective.generator_loss(state.critic, Batch(fake.detach(), fake, nothing, None, z_BL[:, :1]))
    gradients = torch.autograd.grad(loss, list(state.generator.parameters()))
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def _batches(state: State, size: Size, seed: int) -> Iterator[Batch]:
    settings = config.RingSource(kind="ring", events=_EVENTS)
    events = torch.from_numpy(Ring(settings, 0).generate(0)).float()
    for update in range(size.updates):
        random = stream(seed, "vanishing", update)
        real = events[torch.randint(len(events), (size.batch,), generator=random)]
        with torch.no_grad():
            fake = state.generator(torch.randn(size.batch, 2, generator=random), real.new_empty(size.batch, 0))
        yield critics.batch(real, fake, random)
