"""The gradient penalty of a perceptron in closed form: no graph, and the fastest backend of a critic's step.

Source: `critic_step/README.md`, the steps at the points between.
"""

from __future__ import annotations

from torch import Tensor

from kantor_kernels.critic_step import Perceptron, with_gradients
from kantor_kernels.critic_step.functional import penalty_alone


def gradient_penalty(
    critic: Perceptron,
    real: Tensor,
    fake: Tensor,
    eps: Tensor,
    conditions: None,
    coefficient_B: Tensor | None,
    target: float,
    one_sided: bool,
) -> tuple[Tensor, Tensor]:
    """As the reference; the penalty is differentiable once, by the critic's parameters."""
    if coefficient_B is None:
        coefficient_B = real.new_full((len(real),), 1 / len(real))
    step = penalty_alone(critic, real, fake, eps, coefficient_B, target, one_sided)
    return with_gradients(step.penalty, critic.parameters(), step.gradients, once=False), step.norms
