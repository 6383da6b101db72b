"""PacGAN: a critic that judges several events at once (Lin et al., arXiv:1712.04086)."""

from torch import Tensor, nn

from kantor.losses.base import Batch, CriticLoss, Objective


class Packed(Objective):
    """Any objective between packs of m independent real and of m generated events.

    What the critic estimates is its divergence between the product laws p^m and q^m: a lost mode is seen in a pack
    more clearly than in an event. Events of a pack are consecutive rows; a pack counts by the product of their
    weights, which is the weight of a row of p^m.
    """

    def __init__(self, objective: Objective, events: int) -> None:
        self.objective, self.events = objective, events
        self.outputs, self.output_bias = objective.outputs, objective.output_bias

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        return self.objective.critic_loss(critic, batch.packed(self.events))

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        return self.objective.generator_loss(critic, batch.packed(self.events))

    def after_critic_update(self, critic: nn.Module) -> None:
        self.objective.after_critic_update(critic)
