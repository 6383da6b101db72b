"""Objectives whose critic scores each event for itself.

f is the critic's score (a logit where a probability D = sigmoid(f) is meant), x real and x~ generated events; all means
are weighted. Each objective states its critic's loss L_C, its generator's loss L_G, and the distance it logs, which
is a lower bound of a divergence between real and generated events for any critic.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective, bare
from kantor.losses.penalty import Points, at_rows, taken, with_penalty
from kantor.losses.reduction import generated_mean, penalty_coefficients, real_mean


class Scored(Objective):
    """Means of one function of the score over real events and of another over generated ones, and a penalty if any."""

    outputs = 1
    output_bias = True

    def __init__(self, penalty: config.Penalty | None) -> None:
        self.penalty = penalty

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        rows_ND = torch.cat([batch.real, batch.fake]).detach()
        rows_ND.requires_grad_(self.penalty is not None and self.penalty.zero_centred)
        # One forward for both halves: data parallelism wants one pass through the wrapper and one backward.
        score_N = critic(rows_ND, torch.cat([batch.conditions] * 2)).squeeze(-1)
        real_B, fake_B = score_N.chunk(2)
        loss = self.contrast(batch, real_B, fake_B)
        with torch.no_grad():
            distance = self.distance(batch, real_B, fake_B)
        if self.penalty is None:
            nothing = torch.full_like(distance, math.nan)
            return CriticLoss(loss, distance, penalty=nothing, gradient_norm=nothing)

        c_B = penalty_coefficients(batch.weights, batch.eps[:, 0])
        if self.penalty.zero_centred:
            (slope_ND,) = torch.autograd.grad(score_N.sum(), rows_ND, create_graph=True)
            found = at_rows(self.penalty, slope_ND, batch, c_B)
        else:

            def f(x_BD: Tensor, c_BC: Tensor) -> Tensor:
                return bare(critic)(x_BD, c_BC).squeeze(-1)

            found = [taken(self.penalty, f, batch, slice(None), Points(batch.eps, c_B))]
        return with_penalty(self.penalty, batch, loss, distance, found)

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        return generated_mean(batch, self.generated(critic(batch.fake, batch.conditions).squeeze(-1)))

    def contrast(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        """The critic's loss but for the penalty."""
        return real_mean(batch, self.real(real_B)) + generated_mean(batch, self.fake(fake_B))

    def real(self, score_B: Tensor) -> Tensor:
        """The critic's loss of a real event."""
        raise NotImplementedError

    def fake(self, score_B: Tensor) -> Tensor:
        """The critic's loss of a generated event."""
        raise NotImplementedError

    def generated(self, score_B: Tensor) -> Tensor:
        """The generator's loss of a generated event."""
        raise NotImplementedError

    def distance(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        """The critic's estimate of the divergence."""
        raise NotImplementedError


class Gan(Scored):
    """L_C = -E log D(x) - E log(1 - D(x~));  L_G = E log(1 - D(x~)); distance: Jensen-Shannon divergence [nats].

    Goodfellow et al., arXiv:1406.2661, eq. (1) and Algorithm 1. With one-sided label smoothing (Salimans et al.,
    arXiv:1606.03498, section 3.4) -log D(x) becomes -y log D(x) - (1 - y) log(1 - D(x)).
    """

    def __init__(self, settings: config.Gan | config.NsGan) -> None:
        super().__init__(settings.penalty)
        self.label = settings.real_label

    def real(self, score_B: Tensor) -> Tensor:
        return self.label * F.softplus(-score_B) + (1 - self.label) * F.softplus(score_B)

    def fake(self, score_B: Tensor) -> Tensor:
        return F.softplus(score_B)

    def generated(self, score_B: Tensor) -> Tensor:
        return -F.softplus(score_B)

    def distance(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        entropy = real_mean(batch, F.softplus(-real_B)) + generated_mean(batch, F.softplus(fake_B))
        return math.log(2) - entropy / 2


class NsGan(Gan):
    """As `Gan`, but L_G = -E log D(x~), which does not saturate (arXiv:1406.2661, section 3)."""

    def generated(self, score_B: Tensor) -> Tensor:
        return F.softplus(-score_B)


class LsGan(Scored):
    """L_C = E (f(x) - 1)^2 / 2 + E f(x~)^2 / 2;  L_G = E (f(x~) - 1)^2 / 2; distance: triangular discrimination.

    Mao et al., arXiv:1611.04076, eq. (9), labels 0 and 1. The best critic p / (p + q) has L_C = 1/4 - Delta / 4 with
    Delta = 1/2 integral (p - q)^2 / (p + q), the separation of calorimeter challenges.
    """

    def __init__(self, settings: config.LsGan) -> None:
        super().__init__(settings.penalty)

    def real(self, score_B: Tensor) -> Tensor:
        return (score_B - 1).square() / 2

    def fake(self, score_B: Tensor) -> Tensor:
        return score_B.square() / 2

    def generated(self, score_B: Tensor) -> Tensor:
        return self.real(score_B)

    def distance(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        return 1 - 4 * (real_mean(batch, self.real(real_B)) + generated_mean(batch, self.fake(fake_B)))


class Hinge(Scored):
    """L_C = E max(0, 1 - f(x)) + E max(0, 1 + f(x~));  L_G = -E f(x~); distance: total variation.

    Miyato et al., arXiv:1802.05957, eqs. (16) and (17). The best critic sign(p - q) has L_C = 2 - 2 TV.
    """

    def __init__(self, settings: config.Hinge) -> None:
        super().__init__(settings.penalty)

    def real(self, score_B: Tensor) -> Tensor:
        return F.relu(1 - score_B)

    def fake(self, score_B: Tensor) -> Tensor:
        return F.relu(1 + score_B)

    def generated(self, score_B: Tensor) -> Tensor:
        return -score_B

    def distance(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        return 1 - (real_mean(batch, self.real(real_B)) + generated_mean(batch, self.fake(fake_B))) / 2


def sn_gan(settings: config.SnGan) -> Scored:
    """The spectral normalisation itself is the critic network's."""
    return Hinge(config.Hinge(kind="hinge")) if settings.loss == "hinge" else NsGan(config.NsGan(kind="ns_gan"))


class Linear(Scored):
    """L_C = E f(x~) - E f(x);  L_G = -E f(x~); distance: the difference of the mean scores."""

    output_bias = False

    def real(self, score_B: Tensor) -> Tensor:
        return -score_B

    def fake(self, score_B: Tensor) -> Tensor:
        return score_B

    def generated(self, score_B: Tensor) -> Tensor:
        return -score_B

    def distance(self, batch: Batch, real_B: Tensor, fake_B: Tensor) -> Tensor:
        return real_mean(batch, real_B) - generated_mean(batch, fake_B)


class Wgan(Linear):
    """L_C = E f(x~) - E f(x);  L_G = -E f(x~), weights cut to [-c, c]; distance: K times the Wasserstein-1 distance.

    Arjovsky et al., arXiv:1701.07875, Algorithm 1. K is the largest slope that the cut weights allow; they are
    cut after each update of the critic.
    """

    def __init__(self, settings: config.Wgan) -> None:
        super().__init__(None)
        self.clip = settings.clip

    @torch.no_grad()
    def after_critic_update(self, critic: nn.Module) -> None:
        for parameter in critic.parameters():
            parameter.clamp_(-self.clip, self.clip)
