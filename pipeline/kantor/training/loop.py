"""The training loop: critic n times, generator once, moving average, maintenance.

No input or output happens here, and no launcher is known: `Maintenance` does what has to be done between updates.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn, optim

from kantor.config import Adam, Training
from kantor.errors import TrainingError
from kantor.losses import Batch, CriticLoss, Objective
from kantor.losses.reduction import joined_mean, world_size
from kantor.models.features import CriticFeatures
from kantor.models.networks import Generator
from kantor.training.feed import Feed
from kantor.training.state import State


class Maintenance(Protocol):
    """What happens after each generator update: metrics, evaluation, checkpoints, stopping."""

    def __call__(self, state: State, last: "LastUpdate", /) -> None: ...


class LastUpdate:
    """The losses of the latest critic and generator update, reduced over ranks when they are asked for."""

    def __init__(self, critic: CriticLoss, generator_loss: Tensor) -> None:
        self._parts = (critic.loss, generator_loss, critic.distance, critic.penalty, critic.gradient_norm)

    def joined(self) -> list[float]:
        """Critic loss, generator loss, distance, penalty, gradient norm on the joined batch; a collective call."""
        return joined_mean(torch.stack([part.detach() for part in self._parts])).tolist()


def train(
    settings: Training, state: State, objective: Objective, feed: Feed, view: CriticFeatures, maintain: Maintenance
) -> None:
    """Train `state` in place until `settings.steps` generator updates are done.

    Raises:
        TrainingError: a loss or gradient is not finite; nothing has been stepped with it.
    """
    critic, generator = _parallel(state.critic), _parallel(state.generator)

    while state.step < settings.steps:
        _set_learning_rate(state.critic_optimiser, settings.critic_optimiser, state.step, settings.steps)
        _set_learning_rate(state.generator_optimiser, settings.generator_optimiser, state.step, settings.steps)

        # Critic: n updates, each on fresh real and generated events.
        critic_losses = []
        for _ in range(settings.n_critic):
            with torch.no_grad():
                batch = _batch(feed, state.update, state.generator, view)
            critic_losses.append(objective.critic_loss(critic, batch))
            _descend(critic_losses[-1].loss, state.critic_optimiser, f"critic update {state.update}")
            state.update += 1

        # Generator: one update, through the frozen critic.
        with _frozen(state.critic):
            batch = _batch(feed, state.update, generator, view)
            generator_loss = objective.generator_loss(state.critic, batch)
            _descend(generator_loss, state.generator_optimiser, f"generator update {state.step}")
            state.update += 1

        # The moving average is what generates in the end.
        _average(state.averaged, state.generator, _decay(settings.ema, state.step))
        state.step += 1

        maintain(state, LastUpdate(critic_losses[-1], generator_loss))


def _batch(feed: Feed, update: int, generator: nn.Module, view: CriticFeatures) -> Batch:
    rows = feed.rows(update)
    fake_BD = view(generator(feed.noise(update), rows.conditions), rows.conditions)
    return Batch(rows.real, fake_BD, rows.conditions, rows.weights, feed.eps(update))


def _descend(loss: Tensor, optimiser: optim.Optimizer, what: str) -> None:
    # The optimiser's list: walking the modules takes longer than the norm.
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for p in parameters:
        p.grad = None
    loss.backward()
    # After data parallelism has averaged it, the gradient is the same on every rank: all stop together.
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not (math.isfinite(norm) and math.isfinite(loss.detach())):
        raise TrainingError(
            f"{what}: loss {loss.item():g}, gradient norm {norm.item():g}",
            cure="lower the learning rates, or look at the transforms: a heavy tail wants 'log' or 'quantile_normal'",
        )
    optimiser.step()


def _decay(ema: float, step: int) -> float:
    """Short averages at first, so that the start is soon forgotten."""
    return min(ema, (1 + step) / (10 + step))


def _average(averaged: Generator, generator: Generator, decay: float) -> None:
    with torch.no_grad():
        means, values = (tuple(module.parameters()) for module in (averaged, generator))
        torch._foreach_lerp_(means, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for mean, value in zip(averaged.buffers(), generator.buffers(), strict=True):
            mean.copy_(value)


def _set_learning_rate(optimiser: optim.Optimizer, settings: Adam, step: int, steps: int) -> None:
    factor = 1.0 if settings.schedule == "constant" else (1 + math.cos(math.pi * step / steps)) / 2
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * factor


def _parallel(module: nn.Module) -> nn.Module:
    """Average gradients over ranks. Never `static_graph`: with a gradient penalty it is wrong without a word."""
    if world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
