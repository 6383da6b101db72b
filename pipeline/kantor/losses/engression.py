"""Engression: the energy score of a conditional generator (Shen and Meinshausen, arXiv:2307.00835)."""

from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective, length
from kantor.losses.reduction import real_mean


class Engression(Objective):
    """L_G = E (|x - x~| + |x - x~'| - |x~ - x~'|) / 2, x~ and x~' generated from the conditions of x; no critic.

    An unbiased estimate of E|x - x~| - E|x~ - x~'| / 2, which is strictly proper: the law of x given its conditions
    alone has the least value (Gneiting and Raftery, J. Am. Stat. Assoc. 102 (2007) 359, section 4.3). That value is
    half the mean distance of two events of the same conditions, not 0.
    """

    outputs = 0
    output_bias = False

    def __init__(self, settings: config.Engression) -> None:
        pass

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        raise NotImplementedError("there is no critic to train")

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        x_BD, one_BD, other_BD = batch.real, batch.fake, batch.again
        assert other_BD is not None
        return real_mean(batch, (length(x_BD - one_BD) + length(x_BD - other_BD) - length(one_BD - other_BD)) / 2)
