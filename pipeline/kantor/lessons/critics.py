"""Critics that learn against a generator which stands still, as the figures of the papers have them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kantor.config import Training
from kantor.losses import Batch, Objective, make_objective
from kantor.training.state import State

ADAM = {"kind": "adam", "learning_rate": 1e-3, "betas": (0.5, 0.9)}
"""The optimiser of every lesson that has no other of its paper."""


def fresh(settings: Mapping[str, Any], features: int, seed: int) -> tuple[State, Objective]:
    """Networks, optimisers and objective of a training, as a configuration has it, without conditions."""
    training = Training.model_validate({"dataset": "lesson", **settings})
    objective = make_objective(training.objective)
    return (
        State.fresh(
            training, features=features, critic_features=features, conditions=(), objective=objective, seed=seed
        ),
        objective,
    )


def updates(state: State, objective: Objective, batches: Iterator[Batch]) -> Iterator[int]:
    """Update the critic once for each batch; the number of updates before each of them, and at last all."""
    done = 0
    for done, batch in enumerate(batches):
        yield done
        state.critic_optimiser.zero_grad()
        objective.critic_loss(state.critic, batch).loss.backward()
        state.critic_optimiser.step()
        objective.after_critic_update(state.critic)
    yield done + 1


def batch(real_BD: Tensor, fake_BD: Tensor, random: torch.Generator) -> Batch:
    """A batch without conditions or weights."""
    return Batch(
        real_BD, fake_BD, real_BD.new_empty(len(real_BD), 0), None, torch.rand(len(real_BD), 1, generator=random)
    )


def values(state: State, x_ND: Tensor) -> Tensor:
    """(N,) the critic's score."""
    return state.critic(x_ND, x_ND.new_empty(len(x_ND), 0)).squeeze(-1)


def slopes(state: State, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the critic's scores, and (N, D) their gradients by the event."""
    x_ND = x_ND.clone().requires_grad_()
    scores_N = values(state, x_ND)
    (gradient_ND,) = torch.autograd.grad(scores_N.sum(), x_ND)
    return scores_N.detach(), gradient_ND
