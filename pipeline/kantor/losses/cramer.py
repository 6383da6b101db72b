"""Cramér GANs: the critic embeds events, energy distances between embeddings compare them.

Bellemare et al. (arXiv:1705.10743) replace one real sample by the origin to save it (`critic: surrogate`). That loss
vanishes whenever h(generated) = 0 and depends on where the origin lies. `critic: energy` keeps two real samples and
is the unbiased energy distance of the embeddings. Rows 2k and 2k + 1 are the two independent samples.
"""

import torch
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective, bare, length
from kantor.losses.closed_form import InClosedForm, Step, closed_form, perceptron_of
from kantor.losses.moments import AllPairs
from kantor.losses.penalty import penalised, points
from kantor.losses.reduction import both_coefficients, weighted_mean
from kantor_kernels import Energy


class CramerEnergy(InClosedForm):
    """L_G = E w (|h(r1)-h(g2)| + |h(r2)-h(g1)| - |h(g1)-h(g2)| - |h(r1)-h(r2)|),  L_C = -L_G + lambda GP.

    The penalty acts on f(x) = |h(x)-h(g2)| - |h(x)-h(r2)| between r1 and g1. Weights are those of pairs, w = w1 w2.
    """

    output_bias = False

    def __init__(self, settings: config.Cramer) -> None:
        self.settings, self.outputs = settings, settings.embedding

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        perceptron, step = perceptron_of(critic), self.step(batch)
        if perceptron is not None:
            return closed_form(critic, perceptron, batch, step)
        real_BO, fake_BO = _embed(critic, batch)
        distance = _energy(real_BO, fake_BO, _pair_weights(batch))
        real2_PO, fake2_PO = real_BO[1::2], fake_BO[1::2]

        def f(x_PD: Tensor, c_PC: Tensor) -> Tensor:
            h_PO = bare(critic)(x_PD, c_PC)
            return length(h_PO - fake2_PO) - length(h_PO - real2_PO)

        return penalised(step.penalty, f, batch, slice(0, None, 2), distance, step.where)

    def step(self, batch: Batch) -> Step:
        penalty, eps_P1 = self.settings.penalty, batch.eps[::2]
        a_P, c_P = both_coefficients(_pair_weights(batch), eps_P1[:, 0])
        return Step("energy", penalty, points(penalty, eps_P1, c_P, c_P), a_P)

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        return _energy(*_embed_generated(critic, batch), _pair_weights(batch))


class CramerSurrogate(InClosedForm):
    """Algorithm 1 of arXiv:1705.10743, with x~' the generated row of the partner.

    f(x) = |h(x)-h(x~')| - |h(x)|;  L_C = -(E f(x) - E f(x~)) + lambda GP;
    L_G = E|h(x)-h(x~)| + E|h(x)-h(x~')| - E|h(x~)-h(x~')|.
    """

    output_bias = True

    def __init__(self, settings: config.Cramer) -> None:
        self.settings, self.outputs = settings, settings.embedding

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        perceptron, step = perceptron_of(critic), self.step(batch)
        if perceptron is not None:
            return closed_form(critic, perceptron, batch, step)
        real_BO, fake_BO = _embed(critic, batch)
        partner_BO = _partners(fake_BO)

        def witness(h_BO: Tensor) -> Tensor:
            return length(h_BO - partner_BO) - length(h_BO)

        difference_B = witness(real_BO) - witness(fake_BO)
        distance = weighted_mean(_row_weights(batch), difference_B)

        def f(x_BD: Tensor, c_BC: Tensor) -> Tensor:
            return witness(bare(critic)(x_BD, c_BC))

        return penalised(step.penalty, f, batch, slice(None), distance, step.where)

    def step(self, batch: Batch) -> Step:
        penalty = self.settings.penalty
        a_B, c_B = both_coefficients(_row_weights(batch), batch.eps[:, 0])
        return Step("surrogate", penalty, points(penalty, batch.eps, c_B, c_B), a_B)

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        real_BO, fake_BO = _embed_generated(critic, batch)
        partner_BO = _partners(fake_BO)
        terms_B = length(real_BO - fake_BO) + length(real_BO - partner_BO) - length(fake_BO - partner_BO)
        return weighted_mean(_row_weights(batch), terms_B)


def cramer(settings: config.Cramer) -> Objective:
    """The objective for the critic and the pairs that are asked for."""
    if settings.pairs == "all":
        return AllPairs(Energy(), settings.embedding, settings.penalty)
    return CramerEnergy(settings) if settings.critic == "energy" else CramerSurrogate(settings)


def _embed(critic: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    # One forward for both halves: data parallelism wants one pass through the wrapper and one backward.
    both = critic(torch.cat([batch.real, batch.fake]), torch.cat([batch.conditions] * 2))
    real_BO, fake_BO = both.chunk(2)
    return real_BO, fake_BO


def _embed_generated(critic: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    # Nothing flows back through the real rows.
    with torch.no_grad():
        real_BO = critic(batch.real, batch.conditions)
    return real_BO, critic(batch.fake, batch.conditions)


def _energy(real_BO: Tensor, fake_BO: Tensor, weights_P: Tensor | None) -> Tensor:
    r1, r2, g1, g2 = real_BO[0::2], real_BO[1::2], fake_BO[0::2], fake_BO[1::2]
    terms_P = length(r1 - g2) + length(r2 - g1) - length(g1 - g2) - length(r1 - r2)
    return weighted_mean(weights_P, terms_P)


def _pair_weights(batch: Batch) -> Tensor | None:
    return None if batch.weights is None else batch.weights[0::2] * batch.weights[1::2]


def _row_weights(batch: Batch) -> Tensor | None:
    """A row's weight times its partner's, whose generated event the row is compared with."""
    return None if batch.weights is None else batch.weights * _partners(batch.weights)


def _partners(rows: Tensor) -> Tensor:
    """Rows 2k and 2k + 1 exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
