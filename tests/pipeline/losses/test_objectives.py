"""Each objective against its formula, computed by hand with an ordinary double backward."""

import pytest
import torch
from torch import Tensor, nn

from kantor import config
from kantor.config import Penalty
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


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, module.parameters(), strict=True)]


def penalty_by_hand(f, real: Tensor, fake: Tensor, eps: Tensor, weights: Tensor) -> Tensor:
    x_hat = (eps * real + (1 - eps) * fake).requires_grad_()
    (g,) = torch.autograd.grad(f(x_hat).sum(), x_hat, create_graph=True)
    return (weights.abs() * (g.norm(dim=1) - 1) ** 2).sum() / weights.abs().sum()


def mean(weights: Tensor, values: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()


def wgan_gp_by_hand(f: PerceptronCritic, b: Batch, w: Tensor) -> tuple[Tensor, Tensor]:
    def score(x: Tensor) -> Tensor:
        return f(x, b.conditions)[:, 0]

    penalty = penalty_by_hand(score, b.real, b.fake, b.eps, w)
    return mean(w, score(b.fake)) - mean(w, score(b.real)) + LAMBDA * penalty, -mean(w, score(b.fake))


def cramer_by_hand(h: PerceptronCritic, b: Batch, w: Tensor) -> tuple[Tensor, Tensor]:
    c1, c2 = b.conditions[0::2], b.conditions[1::2]
    r1, r2, g1, g2 = h(b.real[0::2], c1), h(b.real[1::2], c2), h(b.fake[0::2], c1), h(b.fake[1::2], c2)
    w12 = w[0::2] * w[1::2]
    distance = mean(w12, (r1 - g2).norm(dim=1) + (r2 - g1).norm(dim=1) - (g1 - g2).norm(dim=1) - (r1 - r2).norm(dim=1))

    def f(x: Tensor) -> Tensor:
        return (h(x, c1) - g2).norm(dim=1) - (h(x, c1) - r2).norm(dim=1)

    penalty = penalty_by_hand(f, b.real[0::2], b.fake[0::2], b.eps[0::2], w12)
    return -distance + LAMBDA * penalty, distance


def surrogate_by_hand(h: PerceptronCritic, b: Batch, w: Tensor) -> tuple[Tensor, Tensor]:
    swap = torch.arange(B).view(-1, 2).flip(1).flatten()
    real, fake = h(b.real, b.conditions), h(b.fake, b.conditions)
    other, pair = fake[swap], w * w[swap]

    def witness(v: Tensor) -> Tensor:
        return (v - other).norm(dim=1) - v.norm(dim=1)

    penalty = penalty_by_hand(lambda x: witness(h(x, b.conditions)), b.real, b.fake, b.eps, pair)
    critic_loss = -(mean(pair, witness(real)) - mean(pair, witness(fake))) + LAMBDA * penalty
    terms = (real - fake).norm(dim=1) + (real - other).norm(dim=1) - (fake - other).norm(dim=1)
    return critic_loss, mean(pair, terms)


PENALTY = Penalty(weight=LAMBDA)
CASES = {
    "wgan_gp": (config.WganGp(kind="wgan_gp", penalty=PENALTY), wgan_gp_by_hand),
    "cramer": (config.Cramer(kind="cramer", embedding=4, penalty=PENALTY), cramer_by_hand),
    "surrogate": (config.Cramer(kind="cramer", critic="surrogate", embedding=4, penalty=PENALTY), surrogate_by_hand),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_the_formulas(case: str, weighted: bool) -> None:
    settings, by_hand = CASES[case]
    objective = make_objective(settings)
    h, b = critic(objective.outputs), batch(weighted=weighted)
    b.fake.requires_grad_()
    weights = torch.ones(B, dtype=torch.float64) if b.weights is None else b.weights
    critic_loss, generator_loss = by_hand(h, b, weights)

    ours = objective.critic_loss(h, b)
    assert ours.loss.item() == pytest.approx(critic_loss.item(), rel=1e-12)
    for mine, theirs in zip(gradients(ours.loss, h), gradients(critic_loss, h), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)

    mine = objective.generator_loss(h, b)
    assert mine.item() == pytest.approx(generator_loss.item(), rel=1e-12)
    grads = [torch.autograd.grad(loss, b.fake)[0] for loss in (mine, generator_loss)]
    assert torch.allclose(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_whole_weights_count_rows(case: str) -> None:
    """Doubling every weight changes nothing."""
    objective = make_objective(CASES[case][0])
    h, b = critic(objective.outputs), batch()
    assert b.weights is not None
    doubled = Batch(b.real, b.fake, b.conditions, 2 * b.weights, b.eps)
    assert objective.critic_loss(h, doubled).loss.item() == pytest.approx(objective.critic_loss(h, b).loss.item())


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
