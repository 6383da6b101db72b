"""The step of a penalised perceptron critic in closed form."""

from kantor_kernels.critic_step.autograd import hand_out, with_gradients
from kantor_kernels.critic_step.functional import (
    mlp_critic_descent,
    mlp_critic_step,
    mlp_forward,
    why_not_descend_at_once,
)
from kantor_kernels.critic_step.problem import AdamState, Comparison, CriticStep, Descent, Perceptron, why_not_bypass

__all__ = [
    "AdamState",
    "Comparison",
    "CriticStep",
    "Descent",
    "Perceptron",
    "hand_out",
    "mlp_critic_descent",
    "mlp_critic_step",
    "mlp_forward",
    "why_not_bypass",
    "why_not_descend_at_once",
    "with_gradients",
]
