"""The critic losses of multilayer perceptrons in closed form: many times fewer operations than by autograd."""

from typing import Literal

import torch
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, bare
from kantor.models.networks.perceptron import PerceptronCritic
from kantor_kernels import Comparison, Perceptron, mlp_critic_step
from kantor_kernels.critic_step import why_not_bypass, with_gradients


def perceptron_of(critic: nn.Module) -> Perceptron | None:
    """The critic as the closed form knows it; None where it is anything else, which autograd has to differentiate."""
    module = bare(critic)
    if type(module) is not PerceptronCritic or not torch.is_grad_enabled():
        return None
    if why_not_bypass(module) is not None or "score" in vars(module):
        return None
    perceptron = Perceptron.of(module.layers)
    if perceptron is None or torch.is_autocast_enabled(perceptron.weights[0].device.type):
        return None
    return perceptron


def closed_form(
    critic: nn.Module,
    perceptron: Perceptron,
    batch: Batch,
    kind: Literal["wasserstein", "energy", "surrogate"] | Comparison,
    penalty: config.Penalty,
    penalty_coefficients: Tensor,
    coefficients: Tensor | None = None,
    fake_coefficients: Tensor | None = None,
) -> CriticLoss:
    """As `penalised`, whose loss and gradients this equals, with the distance of `kind`; see `mlp_critic_step`."""
    step = mlp_critic_step(
        perceptron,
        batch.real,
        batch.fake,
        conditions=batch.conditions,
        loss=kind,
        weight=penalty.weight,
        target=penalty.target,
        one_sided=penalty.one_sided,
        eps=batch.eps[::2] if kind == "energy" else batch.eps,
        coefficients=coefficients,
        fake_coefficients=fake_coefficients,
        penalty_coefficients=penalty_coefficients,
    )
    loss = with_gradients(step.loss, perceptron.parameters(), step.gradients)
    # Data parallelism averages the gradients of what has passed its wrapper.
    loss = critic(batch.real, batch.conditions, loss)
    return CriticLoss(loss, step.distance, step.penalty, penalty_coefficients @ step.norms)
