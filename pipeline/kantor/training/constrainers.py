"""Training the networks of constrainer terms on real events, before the training itself."""

import math

import torch
import torch.distributed as dist
from torch import nn, optim

from kantor.errors import TrainingError
from kantor.losses import Constrainer
from kantor.losses.reduction import world_size
from kantor.models.randomness import stream
from kantor.training.feed import Rows


def fit_constrainers(terms: nn.ModuleList, rows: Rows, *, batch: int, seed: int) -> None:
    """Train each constrainer and freeze it; every rank does the same and takes the first one's result.

    Negative weights count as zero: a mean square error that rewards an error has no minimum.

    Raises:
        TrainingError: a loss is not finite.
    """
    for index, term in enumerate(terms):
        if isinstance(term, Constrainer):
            _fit(term, rows, batch, seed, f"constrainer {index}")
            if world_size() > 1:
                for parameter in term.parameters():
                    dist.broadcast(parameter.data, 0)


def _fit(term: Constrainer, rows: Rows, batch: int, seed: int, purpose: str) -> None:
    term.requires_grad_(True)
    optimiser = optim.Adam(term.parameters(), lr=term.settings.learning_rate, fused=True)
    device = rows.real.device
    for update in range(term.settings.steps):
        index = torch.randint(len(rows.real), (batch,), generator=stream(seed, purpose, update, device), device=device)
        chosen = rows.select(index)
        weights_B = torch.ones_like(chosen.real[:, 0]) if chosen.weights is None else chosen.weights.clamp(min=0)
        loss = (weights_B @ term.errors(chosen.real, chosen.conditions)).sum() / weights_B.sum()
        if not math.isfinite(loss.detach()):
            raise TrainingError(
                f"{purpose}: loss {loss.item():g} at its update {update}",
                cure="lower the term's learning_rate, or look at the transforms of the conditions",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    term.requires_grad_(False)
