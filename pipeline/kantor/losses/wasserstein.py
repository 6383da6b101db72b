"""The Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028)."""

import torch
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective, bare
from kantor.losses.closed_form import closed_form, perceptron_of
from kantor.losses.penalty import penalised
from kantor.losses.reduction import both_coefficients, coefficients, generated_mean, real_mean


class WganGp(Objective):
    """L_C = E f(x~) - E f(x) + lambda GP;  L_G = -E f(x~)."""

    outputs = 1
    output_bias = False

    def __init__(self, settings: config.WganGp) -> None:
        self.settings = settings

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        perceptron = perceptron_of(critic)
        if perceptron is not None:
            a_B, c_B = both_coefficients(batch.weights, batch.eps[:, 0])
            b_B = a_B if batch.generated_weights is batch.weights else coefficients(None, a_B)
            return closed_form(critic, perceptron, batch, "wasserstein", self.settings.penalty, c_B, a_B, b_B)
        # One forward for both halves: data parallelism wants one pass through the wrapper and one backward.
        both = critic(torch.cat([batch.real, batch.fake]), torch.cat([batch.conditions] * 2)).squeeze(-1)
        real_B, fake_B = both.chunk(2)
        distance = real_mean(batch, real_B) - generated_mean(batch, fake_B)

        def f(x_BD: Tensor, c_BC: Tensor) -> Tensor:
            return bare(critic)(x_BD, c_BC).squeeze(-1)

        return penalised(self.settings.penalty, f, batch, slice(None), distance, batch.weights)

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        return -generated_mean(batch, critic(batch.fake, batch.conditions).squeeze(-1))
