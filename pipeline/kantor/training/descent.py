"""Going down: one update of a network, or all of the critic's between two of the generator in one call."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn, optim

from kantor.config import Training
from kantor.errors import TrainingError
from kantor.losses import Batch, CriticLoss, Objective
from kantor.losses.closed_form import InClosedForm, perceptron_of
from kantor.losses.reduction import world_size
from kantor.training.optimisers import FusedAdam
from kantor.training.state import State
from kantor_kernels.critic_step import hand_out, mlp_critic_descent, why_not_descend_at_once


def descend(loss: Tensor, optimiser: optim.Optimizer, clip_norm: float | None, what: str) -> None:
    """One update by the gradient of a loss.

    Raises:
        TrainingError: loss or gradient is not finite; nothing has been stepped with it.
    """
    # The optimiser's list: walking the modules takes longer than the norm.
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for p in parameters:
        p.grad = None
    # A closed form has its gradients at hand; data parallelism has to see them pass.
    if world_size() > 1 or not hand_out(loss):
        loss.backward()
    # After data parallelism has averaged it, the gradient is the same on every rank: all stop together.
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm()  # pyright: ignore[reportPrivateImportUsage]
    if not (math.isfinite(norm) and math.isfinite(loss.detach())):
        raise _not_finite(what, loss.item(), norm.item())
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimiser.step()


def can_descend_at_once(settings: Training, state: State, objective: Objective) -> bool:
    """Whether `descend_at_once` can: of a perceptron on a processor, alone on its rank, by Adam, as the loss says."""
    perceptron = perceptron_of(state.critic)
    return (
        perceptron is not None
        and why_not_descend_at_once(perceptron) is None
        and isinstance(objective, InClosedForm)
        and isinstance(state.critic_optimiser, FusedAdam)
        and settings.critic_optimiser.clip_norm is None
        and world_size() == 1
    )


def descend_at_once(state: State, objective: Objective, batches: Sequence[Batch], what: str) -> CriticLoss | None:
    """The critic's updates on these batches in one compiled call, and the last one's loss.

    None, and nothing is done, where the objective's loss of one of them is no closed form.

    Raises:
        TrainingError: loss or gradient of one is not finite; nothing has been stepped with it.
    """
    perceptron, adam = perceptron_of(state.critic), state.critic_optimiser
    assert perceptron is not None
    assert isinstance(objective, InClosedForm)
    assert isinstance(adam, FusedAdam)
    steps = [objective.step(batch) for batch in batches]
    if not all(step is not None and isinstance(step.kind, str) and len(step.where) == 1 for step in steps):
        return None
    known = [step for step in steps if step is not None]
    points = [step.where[0] for step in known]
    a = [step.coefficients for step in known if step.coefficients is not None]
    b = [step.fake_coefficients for step in known if step.fake_coefficients is not None]
    kind, penalty = known[0].kind, known[0].penalty
    assert isinstance(kind, str)
    found = mlp_critic_descent(
        perceptron,
        torch.stack([batch.real for batch in batches]),
        torch.stack([batch.fake for batch in batches]),
        adam.moments(),
        eps=torch.stack([each.eps.flatten() for each in points]),
        coefficients=torch.stack(a),
        fake_coefficients=torch.stack(b) if b else None,
        penalty_coefficients=torch.stack([each.coefficients for each in points]),
        conditions=torch.stack([batch.conditions for batch in batches]),
        loss=kind,
        weight=penalty.factor * batches[0].penalty_share,
        target=penalty.target,
        one_sided=penalty.one_sided,
    )
    adam.moved(found.updates)
    if found.updates < len(batches):
        at = found.updates
        raise _not_finite(f"{what} {at + 1}", float(found.losses[at]), float(found.gradient_norms[at]))
    last = points[-1].coefficients @ found.norms[-1]
    return CriticLoss(found.losses[-1], found.distances[-1], found.penalties[-1], last)


def _not_finite(what: str, loss: float, norm: float) -> TrainingError:
    return TrainingError(
        f"{what}: loss {loss:g}, gradient norm {norm:g}",
        cure="lower the learning rates, or look at the transforms: a heavy tail wants 'log' or 'quantile_normal'",
    )
