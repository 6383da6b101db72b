"""What is added to a generator's loss, factors included. A term is called with the bare, frozen critic and the batch.

The mean over ranks is the value on the joined batch, and so is the gradient. Terms are modules, so that checkpoints
hold what they have learned.

Shapes: B rows of one rank, P pairs of rows, D critic features, C conditions, K regressed conditions, W hidden units.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch
from kantor.losses.moments import all_pairs, make_kernel, pair_weights
from kantor.losses.reduction import coefficients, joined_moment, weighted_mean
from kantor.models.networks.base import Critic
from kantor.models.networks.perceptron import perceptron
from kantor_kernels import Kernel, kernel_potential


class MmdTerm(nn.Module):
    """eta MMD^2, or eta (MMD^2)^2, between what the critic sees of real and generated events, conditions beside it.

    `all_pairs` is unbiased (Gretton et al., JMLR 13 (2012) 723, eq. (3)); `linear` compares each row with its partner
    alone (eq. (15)), as FAT-GAN's published code does with (MMD^2)^2 (Alanazi et al., arXiv:2001.11103).
    """

    def __init__(self, settings: config.MmdTerm, conditions: Sequence[str], features: int) -> None:
        super().__init__()
        self.settings, self.kernel = settings, make_kernel(settings)

    def forward(self, critic: nn.Module, batch: Batch) -> Tensor:
        real_BD = torch.cat([batch.real, batch.conditions], dim=-1)
        fake_BD = torch.cat([batch.fake, batch.conditions], dim=-1)
        if self.settings.estimator == "all_pairs":
            value = all_pairs(real_BD, fake_BD, batch, self.kernel)
        else:
            value = _partners(real_BD, fake_BD, *pair_weights(batch), self.kernel)
        if self.settings.squared:
            # The square of the joined value, not of a rank's share.
            value = joined_moment(value).square()
        return self.settings.weight * value


class FeatureMatching(nn.Module):
    """weight |E phi(x) - E phi(x~)|^2 over the joined batch, phi the critic's last hidden layer.

    Salimans et al., arXiv:1606.03498, section 3.1.
    """

    def __init__(self, settings: config.FeatureMatching, conditions: Sequence[str], features: int) -> None:
        super().__init__()
        self.weight = settings.weight

    def forward(self, critic: nn.Module, batch: Batch) -> Tensor:
        phi = cast(Critic, critic).hidden
        a_B, b_B = (coefficients(weights, weights) for weights in pair_weights(batch))
        with torch.no_grad():
            real_W = joined_moment(a_B @ phi(batch.real, batch.conditions))
        fake_W = joined_moment(b_B @ phi(batch.fake, batch.conditions))
        return self.weight * (real_W - fake_W).square().sum()


class Constrainer(nn.Module):
    """kappa sum_k |MSE_k(real) - MSE_k(generated)|, MSE_k the error of a frozen regressor of the k-th condition.

    The regressor learns the conditions from what the critic sees of real events, before the training starts. Erdmann
    et al., arXiv:1807.01954, section 3.

    Args:
        conditions: names of the dataset's conditions.
        features: D.
    """

    def __init__(self, settings: config.Constrainer, conditions: Sequence[str], features: int) -> None:
        super().__init__()
        self.settings = settings
        self.columns = [conditions.index(name) for name in settings.conditions or conditions]
        self.layers = perceptron(features, len(self.columns), settings.network)

    def errors(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        """(B, K) squared errors."""
        return (self.layers(x_BD) - c_BC[:, self.columns]).square()

    def forward(self, critic: nn.Module, batch: Batch) -> Tensor:
        a_B, b_B = (coefficients(weights, weights) for weights in pair_weights(batch))
        with torch.no_grad():
            real_K = joined_moment(a_B @ self.errors(batch.real, batch.conditions))
        fake_K = joined_moment(b_B @ self.errors(batch.fake, batch.conditions))
        return self.settings.weight * (real_K - fake_K).abs().sum()


def make_terms(settings: Sequence[config.Term], conditions: Sequence[str], features: int) -> nn.ModuleList:
    """The terms of a training, frozen.

    Args:
        conditions: names of the dataset's conditions.
        features: D.
    """
    return nn.ModuleList(_KINDS[type(term)](term, conditions, features) for term in settings).requires_grad_(False)


_KINDS: dict[type[config.Settings], Callable[[Any, Sequence[str], int], nn.Module]] = {
    config.MmdTerm: MmdTerm,
    config.FeatureMatching: FeatureMatching,
    config.Constrainer: Constrainer,
}


def _partners(real_BD: Tensor, fake_BD: Tensor, a_B: Tensor, b_B: Tensor, kernel: Kernel) -> Tensor:
    """This rank's share of the mean of k(x1, x2) + k(y1, y2) - k(x1, y2) - k(x2, y1) over pairs of rows."""

    def mean(x_PD: Tensor, y_PD: Tensor, weights_P: Tensor) -> Tensor:
        values_P = kernel_potential(x_PD.unsqueeze(1), y_PD.unsqueeze(1), kernel=kernel).squeeze(1)
        return weighted_mean(weights_P, values_P)

    x1, x2, y1, y2 = real_BD[0::2], real_BD[1::2], fake_BD[0::2], fake_BD[1::2]
    a1, a2, b1, b2 = a_B[0::2], a_B[1::2], b_B[0::2], b_B[1::2]
    return mean(x1, x2, a1 * a2) + mean(y1, y2, b1 * b2) - mean(x1, y2, a1 * b2) - mean(x2, y1, a2 * b1)
