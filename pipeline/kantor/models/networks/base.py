"""What every kind of generator and critic is to the rest: called as `generator(z, c)` and `critic(x, c)`.

Shapes: B rows, C conditions (may be zero), L latent dimensions, D features, O outputs of the critic, W units of its
last hidden layer, U units with dropout of all layers together.
"""

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """(z (B, L), c (B, C)) -> transformed features (B, D)."""

    latent: int
    """L, the dimension of the standard normal noise."""


class Critic(nn.Module):
    """(x (B, D), c (B, C)) -> (B, O): O = 1 for a score, more for an embedding."""

    def forward(self, x_BD: Tensor, c_BC: Tensor, loss: Tensor | None = None) -> Tensor:
        """A `loss` is passed on instead, so that data parallelism takes its gradients for those of this pass."""
        return self.score(x_BD, c_BC) if loss is None else loss

    def score(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        """(B, O)."""
        raise NotImplementedError

    def hidden(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        """What the last layer is given, (B, W)."""
        raise NotImplementedError

    @property
    def dropped(self) -> int:
        """U, how many numbers a row's dropout masks are drawn from."""
        return 0

    def draw(self, uniform_BU: Tensor) -> None:
        """The dropout masks of the next update from uniform numbers."""


class Joint(Critic):
    """The critic of an objective that has none: (x (B, D), c (B, C)) -> (B, D + C), the events themselves.

    Conditions stand beside the features, so that their joint distribution is what is compared.
    """

    def score(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        return torch.cat([x_BD, c_BC], dim=-1)
