"""MMD GANs: the critic embeds events, the MMD of the embeddings over all pairs compares them.

With a gradient penalty on the witness (Bińkowski et al., arXiv:1801.01401) they are `AllPairs`; here is the other way
to bound the critic's slope, the gradient-scaled MMD (Arbel et al., arXiv:1805.11565).

Shapes: B rows of this rank, N = 2 B, D critic features, O outputs of the critic.
"""

import math

import torch
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective
from kantor.losses.moments import AllPairs, all_pairs, make_kernel
from kantor.losses.reduction import joined_moment, penalty_coefficients


def mmd_gan(settings: config.MmdGan) -> Objective:
    """The objective for the way that is asked for to bound the critic's slope."""
    if settings.penalty is not None:
        return AllPairs(make_kernel(settings), settings.embedding, settings.penalty)
    return ScaledMmd(settings)


class ScaledMmd(Objective):
    """L_G = MMD^2 / S,  L_C = -L_G,  S = lambda + k(0) + c E |dh/dx|^2 at real rows (arXiv:1805.11565, section 3.2).

    |dh/dx|^2 is the sum over outputs and features, conditions held fixed, and c = -k''(0) of the kernel as a function
    of the distance: the mean of 1 / s^2 of Gaussians, 1 of rational quadratic kernels. E counts rows by |w|, so that S
    stays above 0.
    """

    output_bias = False

    def __init__(self, settings: config.MmdGan) -> None:
        assert settings.scaled is not None
        self.kernel, self.outputs, self.least = make_kernel(settings), settings.embedding, settings.scaled
        inverse_squares = [scale**-2 for scale in settings.scales]
        self.curvature = sum(inverse_squares) / len(inverse_squares) if settings.kernel == "gaussian" else 1.0

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        rows_ND = torch.cat([batch.real, batch.fake]).detach().requires_grad_()
        # One forward for both halves: data parallelism wants one pass through the wrapper and one backward.
        real_BO, fake_BO = critic(rows_ND, torch.cat([batch.conditions] * 2)).chunk(2)
        square = self._square_slope(real_BO, rows_ND, batch, differentiable=True)
        # Of joined values, not of a rank's shares: a quotient of means is not the mean of quotients.
        distance = joined_moment(all_pairs(real_BO, fake_BO, batch, self.kernel)) / self._size(square)
        none = torch.full_like(distance.detach(), math.nan)
        return CriticLoss(-distance, distance.detach(), penalty=none, gradient_norm=square.detach().sqrt())

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        with torch.enable_grad():
            rows_BD = batch.real.detach().requires_grad_()
            real_BO = critic(rows_BD, batch.conditions)
            size = self._size(self._square_slope(real_BO, rows_BD, batch, differentiable=False))
        fake_BO = critic(batch.fake, batch.conditions)
        # Nothing flows back through the real rows.
        return all_pairs(real_BO.detach(), fake_BO, batch, self.kernel) / size

    def _size(self, square: Tensor) -> Tensor:
        """S."""
        return self.least + self.kernel.diagonal + self.curvature * square

    def _square_slope(self, real_BO: Tensor, rows: Tensor, batch: Batch, *, differentiable: bool) -> Tensor:
        """E |dh/dx|^2 over the joined batch; one backward pass for each output."""
        squares = [
            torch.autograd.grad(output_B.sum(), rows, create_graph=differentiable, retain_graph=True)[0]
            .square()
            .sum(-1)
            for output_B in real_BO.unbind(-1)
        ]
        square_B = torch.stack(squares).sum(0)[: len(real_BO)]
        return joined_moment(penalty_coefficients(batch.weights, square_B) @ square_B)
