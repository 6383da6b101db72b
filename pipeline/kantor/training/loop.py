"""The training loop: critic n times, generator once, moving average, maintenance.

No input or output happens here, and no launcher is known: `Maintenance` does what has to be done between updates.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn, optim

from kantor.config import Training
from kantor.losses import Batch, CriticLoss, Objective
from kantor.losses.reduction import joined_mean, world_size
from kantor.models.features import CriticFeatures
from kantor.models.networks.base import Generator
from kantor.training.descent import can_descend_at_once, descend, descend_at_once
from kantor.training.feed import Feed, Rows
from kantor.training.schedules import critic_updates, learning_rate, noise_deviation, penalty_share
from kantor.training.state import State

# Rows that the generator makes at a time for critic updates to come.
_ROWS_AHEAD = 1 << 15


class Maintenance(Protocol):
    """What happens after each generator update: metrics, evaluation, checkpoints, stopping."""

    def __call__(self, state: State, last: "LastUpdate", /) -> None: ...


class LastUpdate:
    """The losses of the latest critic and generator update, reduced over ranks when they are asked for."""

    def __init__(self, critic: CriticLoss | None, generator_loss: Tensor) -> None:
        if critic is None:
            # Without a critic, what the generator descends is the distance itself, terms included.
            none = torch.full_like(generator_loss, math.nan)
            critic = CriticLoss(none, generator_loss, none, none)
        self._parts = (critic.loss, generator_loss, critic.distance, critic.penalty, critic.gradient_norm)

    def joined(self) -> list[float]:
        """Critic loss, generator loss, distance, penalty, gradient norm on the joined batch; a collective call."""
        return joined_mean(torch.stack([part.detach() for part in self._parts])).tolist()


def train(
    settings: Training, state: State, objective: Objective, feed: Feed, view: CriticFeatures, maintain: Maintenance
) -> None:
    """Train `state` in place until `settings.steps` generator updates are done, or maintenance says it is finished.

    Raises:
        TrainingError: a loss or gradient is not finite; nothing has been stepped with it.
    """
    critic, generator = _parallel(state.critic), _parallel(state.generator)

    while state.step < settings.steps and not state.finished:
        _set_learning_rate(state.critic_optimiser, learning_rate(settings.critic_optimiser, state.step, settings.steps))
        _set_learning_rate(
            state.generator_optimiser, learning_rate(settings.generator_optimiser, state.step, settings.steps)
        )

        # Critic: n updates, each on fresh real and generated events.
        what = f"step {state.step}, critic update"
        batches, critic_loss = _critic_batches(settings, state, feed, view), None
        if can_descend_at_once(settings, state, objective):
            batches = list(batches)
            critic_loss = descend_at_once(state, objective, batches, what) if batches else None
            state.update += 0 if critic_loss is None else len(batches)
        if critic_loss is None:
            for n, batch in enumerate(batches):
                with _precision(settings, feed):
                    critic_loss = objective.critic_loss(critic, batch)
                clip_norm = settings.critic_optimiser.clip_norm
                descend(critic_loss.loss, state.critic_optimiser, clip_norm, f"{what} {n + 1}")
                objective.after_critic_update(state.critic)
                state.update += 1

        # Generator: one update, through the frozen critic.
        with _frozen(state.critic):
            batch = _next_batch(settings, state, feed, view, generator)
            with _precision(settings, feed):
                generator_loss = objective.generator_loss(state.critic, batch)
                for term in state.terms:
                    generator_loss = generator_loss + term(state.critic, batch)
            what = f"step {state.step}, generator update"
            descend(generator_loss, state.generator_optimiser, settings.generator_optimiser.clip_norm, what)
            state.update += 1

        # The moving average is what generates in the end.
        _average(state.averaged, state.generator, _decay(settings.ema, state.step))
        state.step += 1

        maintain(state, LastUpdate(critic_loss, generator_loss))


def _critic_batches(settings: Training, state: State, feed: Feed, view: CriticFeatures) -> Iterator[Batch]:
    """The batches of the critic's next updates, each when the one before is done."""
    updates = range(state.update, state.update + critic_updates(settings, state.step))
    # The generator stands still: as many events as it may hold at a time come from one pass.
    together = max(1, _ROWS_AHEAD // settings.batch)
    for first in range(0, len(updates), together):
        ahead = updates[first : first + together]
        rows = [feed.rows(update) for update in ahead]
        with torch.no_grad():
            fakes = _generated(settings, feed, view, state.generator, ahead, rows)
        for update, each, fake_BD in zip(ahead, rows, fakes, strict=True):
            yield _batch(settings, state, feed, update, each, fake_BD)


def _next_batch(settings: Training, state: State, feed: Feed, view: CriticFeatures, generator: nn.Module) -> Batch:
    """The batch of the state's next update, as generated events of which the generator learns."""
    rows = feed.rows(state.update)
    fakes = _generated(settings, feed, view, generator, [state.update], [rows], settings.objective.draws)
    return _batch(settings, state, feed, state.update, rows, *fakes)


def _generated(
    settings: Training,
    feed: Feed,
    view: CriticFeatures,
    generator: nn.Module,
    updates: Sequence[int],
    rows: Sequence[Rows],
    draws: int = 1,
) -> Sequence[Tensor]:
    """What the critic sees of events generated from the conditions of rows, (B, D) for each draw of each update.

    One forward for all: data parallelism wants one pass through the wrapper and one backward.
    """
    noise = [feed.noise(update, draw) for draw in range(draws) for update in updates]
    conditions = _joined([each.conditions for each in rows] * draws)
    with _precision(settings, feed):
        return view(generator(_joined(noise), conditions), conditions).chunk(len(noise))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _batch(
    settings: Training,
    state: State,
    feed: Feed,
    update: int,
    rows: Rows,
    fake_BD: Tensor,
    again_BD: Tensor | None = None,
) -> Batch:
    """The rows of an update, and what is drawn for them."""
    real_BD = rows.real
    if settings.instance_noise is not None:
        deviation = noise_deviation(settings.instance_noise, state.step, settings.steps)
        real_noise_BD, fake_noise_BD = feed.instance_noise(update)
        real_BD, fake_BD = real_BD + deviation * real_noise_BD, fake_BD + deviation * fake_noise_BD
    if state.critic.dropped:
        state.critic.draw(feed.dropout(update, state.critic.dropped))
    share = penalty_share(settings.objective.penalises, state.step, settings.steps)
    return Batch(real_BD, fake_BD, rows.conditions, rows.weights, feed.eps(update), share, again_BD)


def _precision(settings: Training, feed: Feed) -> contextlib.AbstractContextManager[object]:
    """Matrix products in bfloat16, if asked for; the losses themselves stay in single precision."""
    if settings.autocast == "none":
        return contextlib.nullcontext()
    return torch.autocast(feed.device.type, torch.bfloat16)


def _decay(ema: float, step: int) -> float:
    """Short averages at first, so that the start is soon forgotten."""
    return min(ema, (1 + step) / (10 + step))


def _average(averaged: Generator, generator: Generator, decay: float) -> None:
    with torch.no_grad():
        means, values = (tuple(module.parameters()) for module in (averaged, generator))
        torch._foreach_lerp_(means, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for mean, value in zip(averaged.buffers(), generator.buffers(), strict=True):
            mean.copy_(value)


def _set_learning_rate(optimiser: optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _parallel(module: nn.Module) -> nn.Module:
    """Average gradients over ranks. Never `static_graph`: with a gradient penalty it is wrong without a word."""
    if world_size() == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
