"""The step of a penalised perceptron critic in closed form."""

from kantor_kernels.critic_step.autograd import hand_out, with_gradients
from kantor_kernels.critic_step.functional import mlp_critic_step, mlp_forward
from kantor_kernels.critic_step.problem import Comparison, CriticStep, Perceptron, why_not_bypass

__all__ = [
    "Comparison",
    "CriticStep",
    "Perceptron",
    "hand_out",
    "mlp_critic_step",
    "mlp_forward",
    "why_not_bypass",
    "with_gradients",
]
