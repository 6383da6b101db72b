"""The critic losses of multilayer perceptrons in closed form: many times fewer operations than by autograd."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective, bare
from kantor.losses.penalty import Points
from kantor.models.networks.perceptron import PerceptronCritic
from kantor_kernels import Comparison, CriticStep, Perceptron, mlp_critic_step
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


Kind = Literal["wasserstein", "energy", "surrogate"] | Comparison


@dataclass(frozen=True)
class Step:
    """How `mlp_critic_step` computes an objective's loss of a batch, and with which penalty."""

    kind: Kind
    penalty: config.Penalty
    where: Sequence[Points]
    coefficients: Tensor | None  # None of a `Comparison`, which has its own
    fake_coefficients: Tensor | None = None


class InClosedForm(Objective):
    """An objective whose critic loss of a perceptron has a closed form."""

    def step(self, batch: Batch) -> Step | None:
        """How it is computed; None where autograd is the faster way."""
        raise NotImplementedError


def closed_form(
    critic: nn.Module,
    perceptron: Perceptron,
    batch: Batch,
    how: Step,
) -> CriticLoss:
    """As `penalised`, whose loss and gradients this equals, with the distance of `kind`; see `mlp_critic_step`."""

    penalty, kind = how.penalty, how.kind

    def step(points: Points, kind: Kind, a: Tensor | None, b: Tensor | None) -> CriticStep:
        return mlp_critic_step(
            perceptron,
            batch.real,
            batch.fake,
            conditions=batch.conditions,
            loss=kind,
            weight=penalty.factor * batch.penalty_share,
            target=penalty.target,
            one_sided=penalty.one_sided,
            eps=points.eps,
            coefficients=a,
            fake_coefficients=b,
            penalty_coefficients=points.coefficients,
        )

    first, *others = how.where
    found = step(first, kind, how.coefficients, how.fake_coefficients)
    norms = [first.coefficients @ found.norms]
    for points in others:
        # A penalty at other rows, too, is a step of its own, in which the distance does not count again.
        if isinstance(kind, str):
            more = step(points, kind, torch.zeros_like(points.coefficients), None)
        else:
            more = step(points, _WitnessAlone(kind), None, None)
        gradients = tuple(torch._foreach_add(found.gradients, more.gradients))  # pyright: ignore[reportPrivateImportUsage]
        found = CriticStep(found.loss + more.loss, found.distance, found.penalty + more.penalty, found.norms, gradients)
        norms.append(points.coefficients @ more.norms)
    loss = with_gradients(found.loss, perceptron.parameters(), found.gradients)
    # Data parallelism averages the gradients of what has passed its wrapper.
    loss = critic(batch.real, batch.conditions, loss)
    return CriticLoss(loss, found.distance, found.penalty, torch.stack(norms).mean())


@dataclass(frozen=True)
class _WitnessAlone:
    """A comparison whose distance does not count."""

    comparison: Comparison

    def compare(self, real_BO: Tensor, fake_BO: Tensor, between_BO: Tensor) -> tuple[Tensor, Tensor]:
        distance, slope_BO = self.comparison.compare(real_BO, fake_BO, between_BO)
        return 0 * distance, slope_BO
