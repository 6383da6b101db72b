"""Each objective against its formula, computed by hand with an ordinary double backward."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kantor import config
from kantor.config import Training, parse
from kantor.losses import Batch, Objective, make_objective
from kantor.losses.cramer import CramerEnergy, CramerSurrogate
from kantor.models.networks.perceptron import PerceptronCritic
from kantor_kernels import energy_distance

B, D, C = 8, 3, 2
LAMBDA = 7.0


def batch(seed: int = 1, *, weighted: bool = True) -> Batch:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    weights = torch.where(normal(B) > -0.8, 1.3, -0.4).double() if weighted else None
    return Batch(normal(B, D), 0.5 * normal(B, D) + 1, normal(B, C), weights, torch.rand(B, 1, generator=rng).double())


def critic(outputs: int) -> PerceptronCritic:
    torch.manual_seed(2)
    return PerceptronCritic(config.CriticNetwork(width=16, depth=2, activation="silu"), C, D, outputs).double()


class Opaque(nn.Module):
    """A critic of which nothing is known."""

    def __init__(self, critic: PerceptronCritic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        return self.critic(x_BD, c_BC)


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, module.parameters(), strict=True)]


def penalty_by_hand(kind: str, f, real: Tensor, fake: Tensor, eps: Tensor, weights: Tensor) -> Tensor:
    """Its factor included: LAMBDA, or half of it where the penalty is centred at zero."""

    def slope(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        return g.norm(dim=1)

    between, absolute = eps * real + (1 - eps) * fake, weights.abs()
    match kind:
        case "gp":
            return LAMBDA * mean(absolute, (slope(between) - 1) ** 2)
        case "lp":
            return LAMBDA * mean(absolute, (slope(between) - 0.1).clamp_min(0) ** 2)
        case "r1":
            return LAMBDA / 2 * mean(absolute, slope(real) ** 2)
        case "r2":
            return LAMBDA / 2 * mean(absolute, slope(fake) ** 2)
    return penalty_by_hand("r1", f, real, fake, eps, weights) + penalty_by_hand("r2", f, real, fake, eps, weights)


def mean(weights: Tensor, values: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()


def wgan_gp_by_hand(f: PerceptronCritic, b: Batch, w: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    def score(x: Tensor) -> Tensor:
        return f(x, b.conditions)[:, 0]

    penalty = penalty_by_hand(kind, score, b.real, b.fake, b.eps, w)
    return mean(w, score(b.fake)) - mean(w, score(b.real)) + penalty, -mean(w, score(b.fake))


def ns_gan_by_hand(f: PerceptronCritic, b: Batch, w: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    def score(x: Tensor) -> Tensor:
        return f(x, b.conditions)[:, 0]

    real, fake = torch.sigmoid(score(b.real)), torch.sigmoid(score(b.fake))
    penalty = penalty_by_hand(kind, score, b.real, b.fake, b.eps, w)
    return penalty - mean(w, torch.log(real)) - mean(w, torch.log(1 - fake)), -mean(w, torch.log(fake))


def r3gan_by_hand(f: PerceptronCritic, b: Batch, w: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    def score(x: Tensor) -> Tensor:
        return f(x, b.conditions)[:, 0]

    apart = score(b.real) - score(b.fake)
    penalty = penalty_by_hand(kind, score, b.real, b.fake, b.eps, w)
    return penalty + mean(w, torch.log1p(torch.exp(-apart))), mean(w, torch.log1p(torch.exp(apart)))


def cramer_by_hand(h: PerceptronCritic, b: Batch, w: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    c1, c2 = b.conditions[0::2], b.conditions[1::2]
    r1, r2, g1, g2 = h(b.real[0::2], c1), h(b.real[1::2], c2), h(b.fake[0::2], c1), h(b.fake[1::2], c2)
    w12 = w[0::2] * w[1::2]
    distance = mean(w12, (r1 - g2).norm(dim=1) + (r2 - g1).norm(dim=1) - (g1 - g2).norm(dim=1) - (r1 - r2).norm(dim=1))

    def f(x: Tensor) -> Tensor:
        return (h(x, c1) - g2).norm(dim=1) - (h(x, c1) - r2).norm(dim=1)

    penalty = penalty_by_hand(kind, f, b.real[0::2], b.fake[0::2], b.eps[0::2], w12)
    return penalty - distance, distance


def surrogate_by_hand(h: PerceptronCritic, b: Batch, w: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    swap = torch.arange(B).view(-1, 2).flip(1).flatten()
    real, fake = h(b.real, b.conditions), h(b.fake, b.conditions)
    other, pair = fake[swap], w * w[swap]

    def witness(v: Tensor) -> Tensor:
        return (v - other).norm(dim=1) - v.norm(dim=1)

    penalty = penalty_by_hand(kind, lambda x: witness(h(x, b.conditions)), b.real, b.fake, b.eps, pair)
    critic_loss = penalty - (mean(pair, witness(real)) - mean(pair, witness(fake)))
    terms = (real - fake).norm(dim=1) + (real - other).norm(dim=1) - (fake - other).norm(dim=1)
    return critic_loss, mean(pair, terms)


def all_pairs_by_hand(h: PerceptronCritic, b: Batch, w: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The energy distance of the embeddings from all pairs of different rows; the witness leaves out its own row."""
    real, fake = h(b.real, b.conditions), h(b.fake, b.conditions)
    others = (1 - torch.eye(B)).double()

    def lengths(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(others > 0, (x[:, None] - y[None]).square().sum(-1) + 1 - others, 1.0).sqrt() * others

    pairs = torch.outer(w, w) * others

    def over(x: Tensor, y: Tensor) -> Tensor:
        return (pairs * lengths(x, y)).sum() / pairs.sum()

    def witness(x: Tensor) -> Tensor:
        v, rows = h(x, b.conditions), w * others
        return (rows * (lengths(v, fake) - lengths(v, real))).sum(1) / rows.sum(1)

    distance = 2 * over(real, fake) - over(real, real) - over(fake, fake)
    return penalty_by_hand(kind, witness, b.real, b.fake, b.eps, w) - distance, distance


OBJECTIVES = {
    "wgan_gp": ({"kind": "wgan_gp"}, wgan_gp_by_hand),
    "ns_gan": ({"kind": "ns_gan"}, ns_gan_by_hand),
    "r3gan": ({"kind": "r3gan"}, r3gan_by_hand),
    "cramer": ({"kind": "cramer", "embedding": 4}, cramer_by_hand),
    "surrogate": ({"kind": "cramer", "critic": "surrogate", "embedding": 4}, surrogate_by_hand),
    "all pairs": ({"kind": "cramer", "pairs": "all", "embedding": 4}, all_pairs_by_hand),
}
PENALTIES: dict[str, dict[str, Any]] = {
    kind: {"kind": kind, "weight": LAMBDA} | ({"target": 0.1} if kind == "lp" else {})
    for kind in ("gp", "lp", "r1", "r2", "r1r2")
}


def settings_of(name: str, penalty: str) -> config.Objective:
    return parse(
        Training, {"dataset": "d", "objective": OBJECTIVES[name][0] | {"penalty": PENALTIES[penalty]}}, ""
    ).objective


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
@pytest.mark.parametrize("known", [True, False], ids=["perceptron", "any critic"])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_are_the_formulas(name: str, penalty: str, known: bool, weighted: bool) -> None:
    objective = make_objective(settings_of(name, penalty))
    h, b = critic(objective.outputs), batch(weighted=weighted)
    b.fake.requires_grad_()
    weights = torch.ones(B, dtype=torch.float64) if b.weights is None else b.weights
    critic_loss, generator_loss = OBJECTIVES[name][1](h, b, weights, penalty)

    ours = objective.critic_loss(h if known else Opaque(h), b)
    assert ours.loss.item() == pytest.approx(critic_loss.item(), rel=1e-12)
    for mine, theirs in zip(gradients(ours.loss, h), gradients(critic_loss, h), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)

    mine = objective.generator_loss(h, b)
    assert mine.item() == pytest.approx(generator_loss.item(), rel=1e-12)
    grads = [torch.autograd.grad(loss, b.fake)[0] for loss in (mine, generator_loss)]
    assert torch.allclose(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("penalty", ["gp", "r1r2"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_whole_weights_count_rows(name: str, penalty: str) -> None:
    """Doubling every weight changes nothing."""
    objective = make_objective(settings_of(name, penalty))
    h, b = critic(objective.outputs), batch()
    assert b.weights is not None
    doubled = Batch(b.real, b.fake, b.conditions, 2 * b.weights, b.eps)
    assert objective.critic_loss(h, doubled).loss.item() == pytest.approx(objective.critic_loss(h, b).loss.item())


@pytest.mark.parametrize("name", ["wgan_gp", "ns_gan"])
def test_generated_rows_without_weights_count_alike(name: str) -> None:
    """Without conditions a generated event carries no weight, so neither does the penalty at it."""
    objective, b = make_objective(settings_of(name, "r2")), batch()
    h = PerceptronCritic(config.CriticNetwork(width=16, depth=2), 0, D, objective.outputs).double()
    nothing = b.conditions[:, :0]
    found = [
        objective.critic_loss(h, Batch(b.real, b.fake, nothing, weights, b.eps)).penalty.item()
        for weights in (torch.ones_like(b.eps[:, 0]), b.weights)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_schedule_leaves_a_share_of_the_penalty(name: str) -> None:
    objective, b = make_objective(settings_of(name, "r1r2")), batch()
    h = critic(objective.outputs)
    whole, half, nothing = (objective.critic_loss(h, replace(b, penalty_share=share)) for share in (1.0, 0.5, 0.0))
    assert (whole.loss - nothing.loss).item() == pytest.approx(LAMBDA / 2 * whole.penalty.item(), rel=1e-10)
    assert (half.loss - nothing.loss).item() == pytest.approx(LAMBDA / 4 * whole.penalty.item(), rel=1e-10)
    assert half.penalty.item() == pytest.approx(whole.penalty.item(), rel=1e-12)


class Identity(nn.Module):
    """An embedding that changes nothing, to look at the losses themselves."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self.shift


def samples(real_mean: float, fake: float | None, *, rows: int = 20_000) -> Batch:
    rng = torch.Generator().manual_seed(3)
    real = torch.randn(rows, 8, generator=rng, dtype=torch.float64) + real_mean
    generated = torch.randn(rows, 8, generator=rng, dtype=torch.float64)
    generated = torch.zeros_like(real) if fake is None else generated + fake
    return Batch(real, generated, torch.zeros(rows, 0), None, torch.rand(rows, 1, generator=rng).double())


def distance(objective: Objective, h: nn.Module, b: Batch) -> float:
    return objective.critic_loss(h, b).distance.item()


SURROGATE = CramerSurrogate(config.Cramer(kind="cramer", critic="surrogate"))
ENERGY = CramerEnergy(config.Cramer(kind="cramer"))


def test_the_surrogate_vanishes_where_the_generated_embedding_is_zero() -> None:
    b = samples(3.0, None)
    assert distance(SURROGATE, Identity(), b) == pytest.approx(0, abs=1e-12)
    assert distance(ENERGY, Identity(), b) > 10


def test_the_surrogate_is_not_translation_invariant() -> None:
    b = samples(0.0, 1.0)
    surrogates = [distance(SURROGATE, Identity(shift), b) for shift in (0.0, 10.0)]
    energies = [distance(ENERGY, Identity(shift), b) for shift in (0.0, 10.0)]
    assert abs(surrogates[1] - surrogates[0]) > 1
    assert energies[1] == pytest.approx(energies[0], rel=1e-9)


def test_the_energy_critic_is_an_unbiased_energy_distance() -> None:
    b = samples(0.0, 0.5, rows=4000)
    ours = distance(ENERGY, Identity(), b)
    full = energy_distance(b.real, b.fake, estimator="u").item()
    # 2,000 pairs, each with a spread of about one.
    assert ours == pytest.approx(full, abs=5 / 2000**0.5)
