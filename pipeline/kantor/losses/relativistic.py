"""The relativistic GAN with zero-centred penalties, R3GAN (Huang et al., arXiv:2501.05441)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kantor import config
from kantor.losses.adversarial import Scored
from kantor.losses.base import Batch
from kantor.losses.reduction import real_mean


class R3Gan(Scored):
    """L_C = E softplus(f(x~) - f(x)) + gamma / 2 (R1 + R2);  L_G = E softplus(f(x) - f(x~)), eq. (2) of the paper.

    The pairing is by Jolicoeur-Martineau, arXiv:1807.00734: x and x~ of the same row, hence of the same conditions.
    The pair counts by the weight of the real row. The best critic has f = log p / q + c, and ln 2 - L_C without penalty
    then is the Jensen-Shannon divergence [nats] between pairs (x, x~) in this order and in the other one; of any other
    critic it is less.
    """

    output_bias = False

    def __init__(self, settings: config.R3Gan) -> None:
        super().__init__(settings.penalty)

    def contrast(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        return real_mean(batch, F.softplus(fake_B - real_B))

    def distance(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        return math.log(2) - self.contrast(batch, real_B, fake_B)

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        # Nothing flows back through the real rows.
        with torch.no_grad():
            real_B = critic(batch.real, batch.conditions).squeeze(-1)
        return real_mean(batch, F.softplus(real_B - critic(batch.fake, batch.conditions).squeeze(-1)))
