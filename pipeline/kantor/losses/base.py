"""What every objective is given and gives back.

Shapes: B rows of one rank, D critic features, C conditions, O critic outputs.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one update; rows 2k and 2k + 1 are a pair."""

    real: Tensor  # (B, D): what the critic sees of real events
    fake: Tensor  # (B, D): the same of generated events, made from the conditions of the real ones
    conditions: Tensor  # (B, C), transformed
    weights: Tensor | None  # (B,), of either sign
    eps: Tensor  # (B, 1): uniform in [0, 1], where between real and generated the penalty is taken
    penalty_share: float = 1.0  # what its schedule has left of the penalty's weight
    again: Tensor | None = None  # (B, D): other events generated from the same conditions, for objectives of two draws

    @property
    def generated_weights(self) -> Tensor | None:
        """(B,): a generated event carries the weight of the event whose conditions it was made from, if of any."""
        return self.weights if self.conditions.shape[-1] else None

    def packed(self, events: int) -> "Batch":
        """Each `events` consecutive rows as one, (B / events, events D), without conditions; their weights multiply."""

        def beside(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (-1, events)).flatten(1)

        return replace(
            self,
            real=beside(self.real),
            fake=beside(self.fake),
            conditions=self.conditions[::events],
            weights=None if self.weights is None else self.weights.unflatten(0, (-1, events)).prod(-1),
            eps=self.eps[::events],
        )


@dataclass(frozen=True)
class CriticLoss:
    """The loss to descend, and its parts for the log. The mean over ranks is the value on the joined batch.

    Without a penalty, `penalty` and `gradient_norm` are NaN.
    """

    loss: Tensor
    distance: Tensor
    penalty: Tensor
    gradient_norm: Tensor


class Objective(Protocol):
    """A critic loss and a generator loss; objectives inherit what they do not change.

    `critic` may be wrapped for data parallelism in `critic_loss`; in `generator_loss` it is bare and frozen.
    """

    outputs: int
    """Dimension O of the critic's output; 0: the objective has no critic."""

    output_bias: bool
    """Whether the losses feel a constant added to the critic's output.

    Where they do not, its gradient is rounding noise, which Adam scales up: the critic then has no such bias.
    """

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss: ...

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor: ...

    def after_critic_update(self, critic: nn.Module) -> None:
        """Done to the bare critic after each of its updates; nothing, unless an objective says otherwise."""


def bare(module: nn.Module) -> nn.Module:
    """The module inside a data-parallel wrapper: derivatives by its input must not pass the wrapper's hooks."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def length(v_BO: Tensor) -> Tensor:
    """|v| per row, with all derivatives 0 where v = 0."""
    square_B = (v_BO * v_BO).sum(-1)
    apart_B = square_B > 0
    return torch.where(apart_B, square_B, 1.0).sqrt() * apart_B
