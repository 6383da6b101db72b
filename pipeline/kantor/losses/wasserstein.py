"""The Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028)."""

from torch import nn

from kantor import config
from kantor.losses.adversarial import Linear
from kantor.losses.base import Batch, CriticLoss
from kantor.losses.closed_form import InClosedForm, Step, closed_form, perceptron_of
from kantor.losses.penalty import Points
from kantor.losses.reduction import both_coefficients, of_generated


class WganGp(Linear, InClosedForm):
    """L_C = E f(x~) - E f(x) + lambda GP;  L_G = -E f(x~)."""

    def __init__(self, settings: config.WganGp) -> None:
        super().__init__(settings.penalty)
        self.settings = settings

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        perceptron, step = perceptron_of(critic), self.step(batch)
        if perceptron is None or step is None:
            return super().critic_loss(critic, batch)
        return closed_form(critic, perceptron, batch, step)

    def step(self, batch: Batch) -> Step | None:
        # At the rows themselves autograd needs no pass of its own, and is the faster one.
        if self.settings.penalty.zero_centred:
            return None
        a_B, c_B = both_coefficients(batch.weights, batch.eps[:, 0])
        where = [Points(batch.eps, c_B)]
        return Step("wasserstein", self.settings.penalty, where, a_B, of_generated(batch, a_B))
