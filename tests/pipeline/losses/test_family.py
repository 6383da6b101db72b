"""The objectives without a pairwise penalty, those over all pairs, and the terms, against formulas by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kantor import config
from kantor.errors import TrainingError
from kantor.losses import Batch, make_objective, make_terms
from kantor.models.networks.base import Joint
from kantor.models.networks.perceptron import PerceptronCritic
from kantor_kernels import Gaussian, energy_distance, mmd

B, D, C = 8, 3, 2
LAMBDA = 7.0
Formula = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def batch(*, weighted: bool = True, conditional: bool = True, seed: int = 1) -> Batch:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    weights = torch.where(normal(B) > -0.8, 1.3, -0.4).double() if weighted else None
    fake = (0.5 * normal(B, D) + 1).requires_grad_()
    conditions = normal(B, C) if conditional else torch.empty(B, 0).double()
    return Batch(normal(B, D), fake, conditions, weights, torch.rand(B, 1, generator=rng).double())


def critic(outputs: int, conditions: int = C) -> PerceptronCritic:
    torch.manual_seed(2)
    return PerceptronCritic(config.CriticNetwork(width=16, depth=2, activation="silu"), conditions, D, outputs).double()


def close(ours: Tensor, by_hand: Tensor, inputs: list[Tensor]) -> None:
    """Equal values and equal gradients."""
    assert ours.item() == pytest.approx(by_hand.item(), rel=1e-10)
    grads = [torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True) for loss in (ours, by_hand)]
    for mine, theirs in zip(*grads, strict=True):
        zero = torch.zeros(())
        assert torch.allclose(zero if mine is None else mine, zero if theirs is None else theirs, rtol=1e-8, atol=1e-11)


def weights_of(b: Batch) -> tuple[Tensor, Tensor]:
    """Normalised weights of real and of generated rows."""
    ones = torch.ones(B, dtype=torch.float64)
    a = ones if b.weights is None else b.weights
    g = a if b.conditions.shape[1] else ones
    return a / a.sum(), g / g.sum()


# ------------------------------------------------------------------------------------------------ one score an event


def minimax(real: Tensor, fake: Tensor, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    smoothed = 0.9 * torch.log(d_real) + 0.1 * torch.log(1 - d_real)
    return -(a @ smoothed) - g @ torch.log(1 - d_fake), g @ torch.log(1 - d_fake)


def non_saturating(real: Tensor, fake: Tensor, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    return -(a @ torch.log(d_real)) - g @ torch.log(1 - d_fake), -(g @ torch.log(d_fake))


def least_squares(real: Tensor, fake: Tensor, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return (a @ (real - 1) ** 2 + g @ fake**2) / 2, g @ (fake - 1) ** 2 / 2


def hinge(real: Tensor, fake: Tensor, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    zero = torch.zeros(())
    return a @ torch.maximum(1 - real, zero) + g @ torch.maximum(1 + fake, zero), -(g @ fake)


def wasserstein(real: Tensor, fake: Tensor, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return g @ fake - a @ real, -(g @ fake)


def relativistic(real: Tensor, fake: Tensor, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Of pairs, which count by the weight of the real event."""
    return -(a @ torch.log(torch.sigmoid(real - fake))), -(a @ torch.log(torch.sigmoid(fake - real)))


SCORED: dict[str, tuple[config.Objective, Formula]] = {
    "gan": (config.Gan(kind="gan", real_label=0.9), minimax),
    "ns_gan": (config.NsGan(kind="ns_gan"), non_saturating),
    "ls_gan": (config.LsGan(kind="ls_gan"), least_squares),
    "hinge": (config.Hinge(kind="hinge"), hinge),
    "r3gan": (config.R3Gan(kind="r3gan", penalty=config.Penalty(weight=0.0)), relativistic),
    "sn_gan": (config.SnGan(kind="sn_gan"), hinge),
    "sn_gan, non-saturating": (config.SnGan(kind="sn_gan", loss="non_saturating"), non_saturating),
    "wgan": (config.Wgan(kind="wgan"), wasserstein),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("case", SCORED)
def test_losses_of_scores_are_the_formulas(case: str, conditional: bool, weighted: bool) -> None:
    settings, formula = SCORED[case]
    objective = make_objective(settings)
    b = batch(weighted=weighted, conditional=conditional)
    f = critic(objective.outputs, C if conditional else 0)
    critic_loss, generator_loss = formula(f(b.real, b.conditions)[:, 0], f(b.fake, b.conditions)[:, 0], *weights_of(b))
    close(objective.critic_loss(f, b).loss, critic_loss, list(f.parameters()))
    close(objective.generator_loss(f, b), generator_loss, [b.fake])


class Score(nn.Module):
    """A score that is a function of the first feature."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.of(x[:, :1])


def bernoulli(p: float, q: float, rows: int = 1000) -> Batch:
    """A feature that is 1 in a fraction p of real and q of generated rows, and 0 else."""

    def feature(fraction: float) -> Tensor:
        return (torch.arange(rows, dtype=torch.float64) < fraction * rows).double().unsqueeze(1)

    return Batch(feature(p), feature(q), torch.empty(rows, 0), None, torch.zeros(rows, 1).double())


def test_the_best_critics_find_the_divergences() -> None:
    """p = (0.7, 0.3), q = (0.2, 0.8): the logged distance of the best critic is the divergence, of others less."""
    p, q = torch.tensor([[0.3, 0.7], [0.8, 0.2]], dtype=torch.float64)
    m = (p + q) / 2
    kl = [(v * (v / m).log()).sum().item() for v in (p, q)]
    divergences = {
        "gan": (sum(kl) / 2, (p / q).log()),
        "ls_gan": (((p - q) ** 2 / (p + q)).sum().item() / 2, p / (p + q)),
        "hinge": ((p - q).abs().sum().item() / 2, (p - q).sign()),
        "sn_gan": ((p - q).abs().sum().item() / 2, (p - q).sign()),
    }
    b = bernoulli(0.7, 0.2)
    for case, (divergence, best) in divergences.items():
        objective = make_objective(SCORED[case][0])
        found = objective.critic_loss(Score(lambda x, best=best: best[x.long()]), b).distance.item()
        worse = objective.critic_loss(Score(lambda x, best=best: best[x.long()] + 0.3), b).distance.item()
        assert found == pytest.approx(divergence, rel=1e-9), case
        assert worse < found, case


def test_the_best_critic_of_pairs_finds_the_divergence_of_ordered_pairs() -> None:
    """The same p and q; rows are all pairs (x, x~), as often as independent events meet."""
    p, q = torch.tensor([[0.3, 0.7], [0.8, 0.2]], dtype=torch.float64)
    ordered, swapped = torch.outer(p, q), torch.outer(q, p)
    middle = (ordered + swapped) / 2
    divergence = sum((v * (v / middle).log()).sum() for v in (ordered, swapped)) / 2
    counts = (100 * ordered).round().long().flatten()
    x, y = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0)).double().repeat_interleave(counts, 0).split(1, 1)
    b = Batch(x, y, torch.empty(len(x), 0), None, torch.zeros_like(x))
    objective = make_objective(SCORED["r3gan"][0])

    def found(score: Callable[[Tensor], Tensor]) -> float:
        return objective.critic_loss(Score(score), b).distance.item()

    best = (p / q).log()
    assert found(lambda x: best[x.long()] + 3 + 0 * x) == pytest.approx(float(divergence), rel=1e-9)
    assert found(lambda x: 1.1 * best[x.long()] + 0 * x) < float(divergence)
    assert found(lambda x: 0 * x) == pytest.approx(0, abs=1e-12)


def test_no_difference_is_a_distance_of_zero() -> None:
    b = bernoulli(0.4, 0.4)
    for case, constant in {"gan": 0.0, "ns_gan": 0.0, "ls_gan": 0.5, "hinge": 0.0, "sn_gan": 0.0, "wgan": 3.0}.items():
        objective = make_objective(SCORED[case][0])
        found = objective.critic_loss(Score(lambda x, constant=constant: 0 * x + constant), b).distance.item()
        assert found == pytest.approx(0, abs=1e-12), case


@pytest.mark.parametrize("case", [case for case in SCORED if case != "wgan"])
def test_nothing_happens_after_an_update_of_most_critics(case: str) -> None:
    f = critic(1)
    before = [parameter.clone() for parameter in f.parameters()]
    make_objective(SCORED[case][0]).after_critic_update(f)
    assert all(torch.equal(*pair) for pair in zip(before, f.parameters(), strict=True))


def test_clipping_cuts_every_parameter() -> None:
    f = critic(1)
    make_objective(config.Wgan(kind="wgan", clip=0.02)).after_critic_update(f)
    for parameter in f.parameters():
        assert parameter.abs().max() <= 0.02
    assert any((parameter.abs() == 0.02).any() for parameter in f.parameters())


@pytest.mark.parametrize("case", ["ns_gan", "r3gan", "wgan"])
def test_packs_are_rows_of_the_product_law(case: str) -> None:
    """Two events side by side are one row; it counts by the product of their weights, generated ones alike."""
    settings, formula = SCORED[case]
    objective, b = make_objective(settings, pack=2), batch(conditional=False)
    torch.manual_seed(2)
    f = PerceptronCritic(config.CriticNetwork(width=16, depth=2, activation="silu"), 0, 2 * D, 1).double()
    assert b.weights is not None
    pairs = b.weights[0::2] * b.weights[1::2]
    real, fake = (f(torch.cat([rows[0::2], rows[1::2]], 1), b.conditions[0::2])[:, 0] for rows in (b.real, b.fake))
    critic_loss, generator_loss = formula(real, fake, pairs / pairs.sum(), torch.full_like(pairs, 2 / B))
    close(objective.critic_loss(f, b).loss, critic_loss, list(f.parameters()))
    close(objective.generator_loss(f, b), generator_loss, [b.fake])
    objective.after_critic_update(f)
    assert (max(p.abs().max() for p in f.parameters()) <= 0.01) == (case == "wgan")


def test_a_pack_has_one_point_between() -> None:
    penalty = config.Penalty(weight=LAMBDA)
    objective = make_objective(config.WganGp(kind="wgan_gp", penalty=penalty), pack=4)
    b = batch(weighted=False, conditional=False)
    torch.manual_seed(2)
    f = PerceptronCritic(config.CriticNetwork(width=16, depth=2, activation="silu"), 0, 4 * D, 1).double()
    real, fake = b.real.reshape(2, -1), b.fake.detach().reshape(2, -1)
    between = (b.eps[::4] * real + (1 - b.eps[::4]) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(f(between, b.conditions[::4]).sum(), between)
    assert objective.critic_loss(f, b).penalty.item() == pytest.approx(((slope.norm(dim=1) - 1) ** 2).mean().item())


# ---------------------------------------------------------------------------------------------------------- all pairs


def energy_kernel(x: Tensor, y: Tensor) -> Tensor:
    d2 = (x[:, None] - y[None]).square().sum(-1)
    return -torch.where(d2 > 0, torch.where(d2 > 0, d2, 1.0).sqrt(), 0.0)


def rational_kernel(x: Tensor, y: Tensor) -> Tensor:
    d2 = (x[:, None] - y[None]).square().sum(-1)
    return sum((1 + d2 / (2 * a)) ** -a for a in (0.5, 2.0)) / 2  # pyright: ignore[reportReturnType]


def laplacian_kernel(x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(energy_kernel(x, y) / 2)


def gaussian_kernel(x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(-(x[:, None] - y[None]).square().sum(-1))


def all_pairs_by_hand(kernel: Callable[..., Tensor], x: Tensor, y: Tensor, a: Tensor, g: Tensor) -> Tensor:
    off = 1 - torch.eye(B).double()

    def mean(k: Tensor, u: Tensor, w: Tensor) -> Tensor:
        pairs = torch.outer(u, w) * off
        return (pairs * k).sum() / pairs.sum()

    return mean(kernel(x, x), a, a) + mean(kernel(y, y), g, g) - 2 * mean(kernel(x, y), a, g)


def witness_penalty_by_hand(
    kernel: Callable[..., Tensor], h: PerceptronCritic, b: Batch, a: Tensor, g: Tensor
) -> Tensor:
    off = 1 - torch.eye(B).double()
    real, fake = h(b.real, b.conditions), h(b.fake.detach(), b.conditions)
    x_hat = (b.eps * b.real + (1 - b.eps) * b.fake.detach()).requires_grad_()
    v = h(x_hat, b.conditions)
    to_real, to_fake = a * off / (a * off).sum(1, keepdim=True), g * off / (g * off).sum(1, keepdim=True)
    f = (to_real * kernel(v, real)).sum(1) - (to_fake * kernel(v, fake)).sum(1)
    (slope,) = torch.autograd.grad(f.sum(), x_hat, create_graph=True)
    absolute = torch.ones(B).double() if b.weights is None else b.weights.abs()
    return (absolute * (slope.norm(dim=1) - 1) ** 2).sum() / absolute.sum()


PENALTY = config.Penalty(weight=LAMBDA)
EMBEDDED: dict[str, tuple[config.Objective, Callable[..., Tensor]]] = {
    "cramer": (config.Cramer(kind="cramer", pairs="all", embedding=4, penalty=PENALTY), energy_kernel),
    "energy": (config.EnergyMatching(kind="energy", embedding=4, penalty=PENALTY), energy_kernel),
    "mmd": (config.MmdMatching(kind="mmd", scales=[0.5, 2.0], embedding=4, penalty=PENALTY), rational_kernel),
    "gaussian": (
        config.MmdMatching(kind="mmd", kernel="gaussian", scales=[0.5**0.5], embedding=4, penalty=PENALTY),
        gaussian_kernel,
    ),
    "laplacian": (
        config.MmdMatching(kind="mmd", kernel="laplacian", scales=[2.0], embedding=4, penalty=PENALTY),
        laplacian_kernel,
    ),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("case", EMBEDDED)
def test_embedded_pairs_are_the_formulas(case: str, conditional: bool, weighted: bool) -> None:
    settings, kernel = EMBEDDED[case]
    objective = make_objective(settings)
    b = batch(weighted=weighted, conditional=conditional)
    h = critic(objective.outputs, C if conditional else 0)
    a, g = weights_of(b)
    distance = all_pairs_by_hand(kernel, h(b.real, b.conditions), h(b.fake, b.conditions), a, g)
    penalty = witness_penalty_by_hand(kernel, h, b, a, g)

    ours = objective.critic_loss(h, b)
    close(ours.loss, -distance + LAMBDA * penalty, list(h.parameters()))
    assert ours.distance.item() == pytest.approx(distance.item(), rel=1e-10)
    assert ours.penalty.item() == pytest.approx(penalty.item(), rel=1e-10)
    close(objective.generator_loss(h, b), distance, [b.fake])


def test_tiles_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make_objective(EMBEDDED["mmd"][0])
    h, b = critic(objective.outputs), batch()
    whole = objective.critic_loss(h, b).loss
    monkeypatch.setattr("kantor_kernels.pairwise.slope.PAIRS", 3 * B)
    close(objective.critic_loss(h, b).loss, whole, list(h.parameters()))


SCALED = {
    "gaussian": (config.MmdGan(kind="mmd_gan", kernel="gaussian", scales=[0.5**0.5], embedding=4, scaled=0.3), 2.0),
    "rational": (config.MmdGan(kind="mmd_gan", scales=[0.5, 2.0], embedding=4, scaled=0.3), 1.0),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("case", SCALED)
def test_the_scaled_mmd_is_the_formula(case: str, conditional: bool, weighted: bool) -> None:
    """The size of the kernel by hand: the mixed second derivative of k(h(x), h(y)) by x and y, at y = x."""
    settings, curvature = SCALED[case]
    kernel = gaussian_kernel if case == "gaussian" else rational_kernel
    objective = make_objective(settings)
    b = batch(weighted=weighted, conditional=conditional)
    h = critic(4, C if conditional else 0)
    a, g = weights_of(b)

    def size_of_row(x: Tensor, c: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda v: h(v[None], c[None])[0], x, create_graph=True)
        return jacobian.square().sum()

    square_B = torch.stack([size_of_row(*row) for row in zip(b.real, b.conditions, strict=True)])
    size = 0.3 + 1 + curvature * (a.abs() @ square_B) / a.abs().sum()
    distance = all_pairs_by_hand(kernel, h(b.real, b.conditions), h(b.fake, b.conditions), a, g) / size

    ours = objective.critic_loss(h, b)
    close(ours.loss, -distance, list(h.parameters()))
    assert ours.distance.item() == pytest.approx(distance.item(), rel=1e-10)
    h.requires_grad_(False)
    close(objective.generator_loss(h, b), distance, [b.fake])


def test_the_size_of_a_scaled_kernel_is_its_curvature() -> None:
    """d^2 k(x, y) / dx dy at y = x, summed over features, is what a kernel's size has beside k(x, x)."""
    x = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    for case, (_, curvature) in SCALED.items():
        kernel = gaussian_kernel if case == "gaussian" else rational_kernel
        mixed = torch.autograd.functional.hessian(lambda u, v, k=kernel: k(u, v).sum(), (x, x))[0][1]
        assert mixed.reshape(3, 3).trace().item() == pytest.approx(3 * curvature)


def test_mmd_gan_with_a_penalty_is_mmd_of_an_embedding() -> None:
    penalised = make_objective(config.MmdGan(kind="mmd_gan", scales=[0.5, 2.0], embedding=4, penalty=PENALTY))
    h, b = critic(4), batch()
    matching = make_objective(EMBEDDED["mmd"][0])
    assert penalised.critic_loss(h, b).loss.item() == matching.critic_loss(h, b).loss.item()
    assert penalised.generator_loss(h, b).item() == matching.generator_loss(h, b).item()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
def test_engression_is_the_energy_score_of_two_draws(weighted: bool) -> None:
    b = batch(weighted=weighted)
    again = (b.fake + torch.linspace(-1, 1, B).double()[:, None]).detach().requires_grad_()
    a, _ = weights_of(b)
    scores = ((b.real - b.fake).norm(dim=1) + (b.real - again).norm(dim=1) - (b.fake - again).norm(dim=1)) / 2
    objective = make_objective(config.Engression(kind="engression"))
    close(objective.generator_loss(Joint(), replace(b, again=again)), a @ scores, [b.fake, again])


def test_engression_is_least_for_the_true_law_of_each_condition() -> None:
    """x = c + normal: less spread, more spread, the law of all conditions together score worse, by what they must."""
    rng = torch.Generator().manual_seed(3)
    rows = 40_000
    c, noise, one, other = torch.randn(4, rows, 1, generator=rng, dtype=torch.float64)
    objective = make_objective(config.Engression(kind="engression"))

    def score(mean: Tensor, spread: float) -> float:
        b = Batch(c + noise, mean + spread * one, c, None, torch.zeros_like(c), again=mean + spread * other)
        return objective.generator_loss(Joint(), b).item()

    def exact(distance: float, spread: float) -> float:
        """E|x - x~| - E|x~ - x~'| / 2 of normal differences of these deviations."""
        return (distance - spread * math.sqrt(2) / 2) * math.sqrt(2 / math.pi)

    truth = exact(math.sqrt(2), 1.0)
    # The standard error of a mean of 40,000 scores, each with a spread below 1.
    assert score(c, 1.0) == pytest.approx(truth, abs=5 / rows**0.5)
    for mean, spread, worse in (
        (c, 0.0, exact(1.0, 0.0)),
        (c, 2.0, exact(math.sqrt(5), 2.0)),
        (0 * c, 2**0.5, exact(2.0, 2**0.5)),
    ):
        assert worse > truth + 0.05
        assert score(mean, spread) == pytest.approx(worse, abs=5 / rows**0.5)


CRITIC_FREE: dict[str, tuple[config.Objective, Callable[..., Tensor]]] = {
    "energy": (config.EnergyMatching(kind="energy"), energy_kernel),
    "mmd": (config.MmdMatching(kind="mmd", scales=[0.5, 2.0]), rational_kernel),
    "gaussian": (config.MmdMatching(kind="mmd", kernel="gaussian", scales=[0.5**0.5]), gaussian_kernel),
}


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("case", CRITIC_FREE)
def test_matching_compares_events_with_their_conditions(case: str, conditional: bool) -> None:
    settings, kernel = CRITIC_FREE[case]
    b = batch(conditional=conditional)
    x, y = torch.cat([b.real, b.conditions], 1), torch.cat([b.fake, b.conditions], 1)
    by_hand = all_pairs_by_hand(kernel, x, y, *weights_of(b))
    close(make_objective(settings).generator_loss(Joint(), b), by_hand, [b.fake])


def samples(shift: float, rows: int = 3000) -> Batch:
    rng = torch.Generator().manual_seed(3)
    real, fake = torch.randn(2, rows, 4, generator=rng, dtype=torch.float64)
    return Batch(real, fake + shift, torch.empty(rows, 0), None, torch.rand(rows, 1, generator=rng).double())


def test_all_pairs_agree_with_the_library() -> None:
    b = samples(0.5)
    energy = make_objective(config.EnergyMatching(kind="energy")).generator_loss(Joint(), b).item()
    assert energy == pytest.approx(energy_distance(b.real, b.fake, estimator="u").item(), abs=1e-3)
    gaussian = make_objective(config.MmdMatching(kind="mmd", kernel="gaussian", scales=[1.0]))
    expected = mmd(b.real, b.fake, kernel=Gaussian(1.0), estimator="u").item()
    assert gaussian.generator_loss(Joint(), b).item() == pytest.approx(expected, abs=1e-3)


class Embedding(nn.Module):
    """x + shift, or zero."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self.shift


def test_all_pairs_see_what_the_surrogate_does_not() -> None:
    """Where h(generated) is zero the surrogate is zero; and it moves with the origin, the energy critic does not."""
    everything = make_objective(config.Cramer(kind="cramer", pairs="all"))
    surrogate = make_objective(config.Cramer(kind="cramer", critic="surrogate"))
    b = samples(1.0)
    collapsed = Batch(b.real + 3, torch.zeros_like(b.fake), b.conditions, None, b.eps)
    assert surrogate.critic_loss(Embedding(), collapsed).distance.item() == pytest.approx(0, abs=1e-12)
    assert everything.generator_loss(Embedding(), collapsed).item() > 5

    surrogates = [surrogate.critic_loss(Embedding(shift), b).distance.item() for shift in (0.0, 10.0)]
    energies = [everything.generator_loss(Embedding(shift), b).item() for shift in (0.0, 10.0)]
    assert abs(surrogates[1] - surrogates[0]) > 0.5
    assert energies[1] == pytest.approx(energies[0], rel=1e-9)


def test_all_pairs_scatter_less_than_partners() -> None:
    objectives = [
        make_objective(config.Cramer.model_validate({"kind": "cramer", "pairs": p})) for p in ("partners", "all")
    ]
    spreads = []
    for objective in objectives:
        values = []
        for seed in range(40):
            rng = torch.Generator().manual_seed(seed)
            real, fake = torch.randn(2, 64, 4, generator=rng, dtype=torch.float64)
            b = Batch(real, fake, torch.empty(64, 0), None, torch.rand(64, 1, generator=rng).double())
            values.append(objective.generator_loss(Embedding(), b).item())
        spreads.append(torch.tensor(values).std().item())
    assert spreads[1] < spreads[0] / 2


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, -3.0], [1.0, -1.0, 1.0, -1.0]])
@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
def test_pair_weights_that_add_up_to_nothing_are_an_error(conditional: bool, weights: list[float]) -> None:
    b = samples(0.5, rows=4)
    conditions = b.real[:, : int(conditional)]
    weights_B = torch.tensor(weights, dtype=torch.float64)
    with pytest.raises(TrainingError, match="add up to zero"):
        make_objective(config.EnergyMatching(kind="energy")).generator_loss(
            Joint(), Batch(b.real, b.fake, conditions, weights_B, b.eps)
        )


# -------------------------------------------------------------------------------------------------------------- terms


@pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("squared", [False, True])
def test_the_mmd_term_of_all_pairs(squared: bool, conditional: bool) -> None:
    settings = config.MmdTerm(kind="mmd", kernel="gaussian", scales=[0.5**0.5], weight=3.0, squared=squared)
    (term,) = make_terms([settings], ["a", "b"], D)
    b = batch(conditional=conditional)
    x, y = torch.cat([b.real, b.conditions], 1), torch.cat([b.fake, b.conditions], 1)
    value = all_pairs_by_hand(gaussian_kernel, x, y, *weights_of(b))
    close(term(nn.Identity(), b), 3 * value**2 if squared else 3 * value, [b.fake])


def test_the_linear_mmd_term_is_fat_gans() -> None:
    """1000 (MMD^2)^2 with exp(-d^2) of partners; its rows are halves of the batch, here every second row."""
    settings = config.MmdTerm(
        kind="mmd", kernel="gaussian", scales=[0.5**0.5], weight=1000.0, squared=True, estimator="linear"
    )
    (term,) = make_terms([settings], [], D)
    b = batch(weighted=False, conditional=False)
    x1, x2, y1, y2 = b.real[0::2], b.real[1::2], b.fake[0::2], b.fake[1::2]

    def k(u: Tensor, v: Tensor) -> Tensor:
        return torch.exp(-(u - v).square().sum(1)).mean()

    value = k(x1, x2) + k(y1, y2) - k(x1, y2) - k(x2, y1)
    close(term(nn.Identity(), b), 1000 * value**2, [b.fake])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
def test_feature_matching(weighted: bool) -> None:
    (term,) = make_terms([config.FeatureMatching(kind="feature_matching", weight=2.0)], [], D)
    f, b = critic(1), batch(weighted=weighted)
    a, g = weights_of(b)

    def phi(x: Tensor) -> Tensor:
        return f.layers[:4](torch.cat([x, b.conditions], 1))

    close(term(f, b), 2 * (a @ phi(b.real) - g @ phi(b.fake)).square().sum(), [b.fake])


def test_the_constrainer_compares_errors() -> None:
    settings = config.Constrainer(kind="constrainer", weight=0.5, conditions=["b"], network=config.Network(width=8))
    (term,) = make_terms([settings], ["a", "b"], D)
    assert isinstance(term, nn.Module)
    term.double()
    b = batch()
    a, g = weights_of(b)
    layers = term.get_submodule("layers")

    def errors(x: Tensor) -> Tensor:
        return (layers(x)[:, 0] - b.conditions[:, 1]) ** 2

    close(term(nn.Identity(), b), 0.5 * (a @ errors(b.real) - g @ errors(b.fake)).abs(), [b.fake])


def test_a_constrainer_takes_all_conditions_by_default() -> None:
    (term,) = make_terms([config.Constrainer(kind="constrainer")], ["a", "b"], D)
    assert isinstance(term, nn.Module)
    assert [p.shape[0] for p in term.parameters()][-1] == 2
    assert math.isfinite(term.double()(nn.Identity(), batch()).item())
