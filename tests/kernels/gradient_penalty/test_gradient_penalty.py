"""The penalty without double backward is the penalty with it, to the last digits, for every kind of critic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from kantor_kernels import GradientPenalty, gradient_penalty
from kantor_kernels.backends import why_not_compile
from kantor_kernels.testing import assert_close


class Residual(nn.Module):
    """x + f(x), as a layer."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Channel(nn.Module):
    """(B, D) to (B, 1, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None]


def mlp(activation: nn.Module, *between: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 24), *between, activation, nn.Linear(24, 24), *between, activation, nn.Linear(24, 1)
    )


CRITICS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: mlp(nn.LeakyReLU(0.2)),
    "silu": lambda: mlp(nn.SiLU()),
    "tanh": lambda: mlp(nn.Tanh()),
    "softplus": lambda: mlp(nn.Softplus()),
    "gelu": lambda: mlp(nn.GELU()),
    "layer norm": lambda: mlp(nn.SiLU(), nn.LayerNorm(24)),
    "rms norm": lambda: mlp(nn.SiLU(), nn.RMSNorm(24)),
    "group norm": lambda: mlp(nn.Tanh(), nn.GroupNorm(3, 24)),
    "softmax": lambda: mlp(nn.Softmax(-1)),
    "dropout": lambda: mlp(nn.LeakyReLU(0.2), nn.Dropout(0.3)),
    "residual": lambda: nn.Sequential(
        nn.Linear(6, 24),
        Residual(nn.LayerNorm(24), nn.SiLU(), nn.Linear(24, 24)),
        Residual(nn.LayerNorm(24), nn.SiLU(), nn.Linear(24, 24)),
        nn.Linear(24, 1),
    ),
    "conv": lambda: nn.Sequential(
        Channel(),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm1d(4, affine=True),
        nn.Conv1d(4, 4, 3, stride=2),
        nn.SiLU(),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(4, 1),
    ),
}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    real, fake = (torch.randn(16, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return real, fake, torch.rand(16, generator=generator, dtype=torch.float64)


def build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return CRITICS[name]().double()


def parameter_gradients(critic: nn.Module, penalty: Tensor) -> list[Tensor]:
    parameters = list(critic.parameters())
    grads = torch.autograd.grad(penalty, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


def both(critic: nn.Module, *args: Tensor, **options) -> list[list[Tensor]]:
    results = []
    for backend in ("auto", "reference"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            penalty, norms = gradient_penalty(critic, *args, return_norms=True, backend=backend, **options)
        results.append([penalty.detach(), norms, *parameter_gradients(critic, penalty)])
    return results


@pytest.mark.parametrize("options", [{}, {"one_sided": True, "target": 0.3}, {"target": 0.0}], ids=str)
@pytest.mark.parametrize("name", CRITICS)
def test_it_equals_double_backward(name: str, options: dict, batch) -> None:
    real, fake, eps = batch
    for ours, exact in zip(*both(build(name), real, fake, eps=eps, **options), strict=True):
        assert_close(name, ours, exact, rtol=1e-12, atol=1e-12 * max(1.0, float(exact.abs().max())))


COMPILED = pytest.mark.skipif(why_not_compile(torch.device("cpu")) is not None, reason="needs a C++ compiler")


# PyTorch's compiler uses what PyTorch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, COMPILED])])
@pytest.mark.parametrize("name", ["leaky", "layer norm", "conv"])
def test_it_compiles_as_one_graph(name: str, compiler: str, batch) -> None:
    real, fake, eps = batch
    critic = build(name)
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: gradient_penalty(critic, x, y, eps=eps), backend=compiler, fullgraph=True)
    penalty, expected = compiled(real, fake), gradient_penalty(critic, real, fake, eps=eps, backend="reference")
    assert_close("value", penalty, expected, rtol=1e-12)
    for ours, exact in zip(*(parameter_gradients(critic, p) for p in (penalty, expected)), strict=True):
        assert_close(name, ours, exact, rtol=1e-12, atol=1e-12)


def test_a_linear_critic_by_hand() -> None:
    critic = nn.Linear(2, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[3.0, 4.0]]))
    x, y = torch.zeros(4, 2), torch.ones(4, 2)
    penalty, norms = gradient_penalty(critic, x, y, return_norms=True)
    assert norms.tolist() == [5.0] * 4
    assert not norms.requires_grad
    assert penalty.item() == 16.0
    penalty.backward()
    # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    assert_close("dw", critic.weight.grad, torch.tensor([[4.8, 6.4]]), rtol=1e-6)  # pyright: ignore
    assert gradient_penalty(critic, x, y, target=6.0).item() == 1.0
    assert gradient_penalty(critic, x, y, target=6.0, one_sided=True).item() == 0.0
    assert GradientPenalty(target=7.0)(critic, x, y).item() == 4.0


def test_weights_are_taken_by_magnitude(batch) -> None:
    real, fake, eps = batch
    weights = torch.linspace(-1, 2, 16, dtype=torch.float64)
    critic = build("silu")
    for ours, exact in zip(*both(critic, real, fake, eps=eps, weights=weights), strict=True):
        assert_close("weighted", ours, exact, rtol=1e-12, atol=1e-13)
    penalty, norms = gradient_penalty(critic, real, fake, eps=eps, weights=weights, return_norms=True)
    by_hand = (weights.abs() * (norms - 1) ** 2).sum() / weights.abs().sum()
    assert_close("mean", penalty, by_hand, rtol=1e-12)


def test_ranks_with_global_weights_add_up(batch) -> None:
    real, fake, eps = batch
    weights = torch.linspace(-1, 2, 16, dtype=torch.float64)
    critic = build("silu")
    whole = gradient_penalty(critic, real, fake, eps=eps, weights=weights)
    share = weights.abs() / weights.abs().sum()
    parts = [
        gradient_penalty(critic, real[rows], fake[rows], eps=eps[rows], weights=share[rows], normalise=False)
        for rows in (slice(0, 6), slice(6, 16))
    ]
    assert_close("sum", parts[0] + parts[1], whole, rtol=1e-12)
    joined, split = parameter_gradients(critic, whole), parameter_gradients(critic, parts[0] + parts[1])
    for ours, exact in zip(split, joined, strict=True):
        assert_close("gradient", ours, exact, rtol=1e-12, atol=1e-14)


def test_conditions_are_passed_through_and_not_interpolated(batch) -> None:
    real, fake, eps = batch
    conditions = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = nn.Linear(8, 1).double()
    seen = []

    def critic(x: Tensor, c: Tensor) -> Tensor:
        seen.append(c)
        return net(torch.cat([x, c], 1)).tanh()

    results = []
    for backend in ("auto", "reference"):
        penalty, norms = gradient_penalty(
            critic, real, fake, conditions=conditions, eps=eps, return_norms=True, backend=backend
        )
        results.append([penalty, norms, *parameter_gradients(net, penalty)])
    for ours, exact in zip(*results, strict=True):
        assert_close("conditional", ours, exact, rtol=1e-12, atol=1e-13)
    assert all(torch.equal(c, conditions) for c in seen)


def test_a_vanishing_gradient_is_no_nan(batch) -> None:
    real, fake, _ = batch
    critic = build("silu")
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    for backend in ("auto", "reference"):
        penalty = gradient_penalty(critic, real, fake, backend=backend)
        assert penalty.item() == 1.0
        for grad in parameter_gradients(critic, penalty):
            assert_close("zero", grad, torch.zeros_like(grad))


def test_eps_is_one_number_a_sample_drawn_by_the_generator(batch) -> None:
    real, fake, eps = batch
    points = []

    def critic(x: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return x.square().sum(1)

    for _ in range(2):
        gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(9))
    assert torch.equal(points[0], points[-1])
    drawn = torch.rand(16, generator=torch.Generator().manual_seed(9)).double()[:, None]
    assert_close("x_hat", points[0], drawn * real + (1 - drawn) * fake, rtol=1e-14)
    points.clear()
    gradient_penalty(critic, real, fake, eps=eps[:, None])
    assert_close("given", points[0], eps[:, None] * real + (1 - eps[:, None]) * fake, rtol=1e-14)


def test_nothing_flows_into_the_samples(batch) -> None:
    real, fake, _ = batch
    fake = fake.clone().requires_grad_()
    gradient_penalty(build("tanh"), real, fake).backward()
    assert fake.grad is None


def test_without_grad_mode_the_value_is_the_same(batch) -> None:
    real, fake, eps = batch
    critic = build("tanh")
    with torch.no_grad():
        value = gradient_penalty(critic, real, fake, eps=eps)
    assert not value.requires_grad
    assert value.item() == gradient_penalty(critic, real, fake, eps=eps).item()


def test_a_second_derivative_is_refused(batch) -> None:
    real, fake, _ = batch
    critic = build("tanh")
    with pytest.raises(NotImplementedError, match="gradient_penalty is differentiable once"):
        torch.autograd.grad(gradient_penalty(critic, real, fake), next(critic.parameters()), create_graph=True)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_transforms_give_the_gradients_of_double_backward(backend: str, batch) -> None:
    real, fake, eps = batch
    critic = build("tanh")
    expected = parameter_gradients(critic, gradient_penalty(critic, real, fake, eps=eps, backend="reference"))

    def penalty(parameters: dict[str, Tensor]) -> Tensor:
        called = partial(torch.func.functional_call, critic, parameters)
        return gradient_penalty(called, real, fake, eps=eps, backend=backend)

    found = torch.func.grad(penalty)({name: p.detach() for name, p in critic.named_parameters()})
    for (name, ours), exact in zip(found.items(), expected, strict=True):
        assert_close(name, ours, exact, rtol=1e-11, atol=1e-13)


def test_dropout_leaves_the_random_stream_as_one_evaluation_does(batch) -> None:
    real, fake, eps = batch
    critic = build("dropout")
    after = []
    with torch.random.fork_rng(devices=[]):
        for evaluate in (lambda: gradient_penalty(critic, real, fake, eps=eps), lambda: critic(real)):
            torch.manual_seed(1)
            evaluate()
            after.append(torch.rand(()).item())
    assert after[0] == after[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_penalties_are_float32(dtype: torch.dtype, batch) -> None:
    real, fake, eps = batch
    critic = build("silu")
    exact = gradient_penalty(critic, real, fake, eps=eps)
    low = gradient_penalty(copy.deepcopy(critic).to(dtype), real.to(dtype), fake.to(dtype), eps=eps)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=1e-5 if dtype == torch.float32 else 0.05)


def test_bad_input_is_refused(batch) -> None:
    real, fake, _ = batch
    critic = build("tanh")
    with pytest.raises(ValueError, match="real and fake must agree"):
        gradient_penalty(critic, real, fake[:5])
    with pytest.raises(ValueError, match="not empty"):
        gradient_penalty(critic, real[:0], fake[:0])
    with pytest.raises(ValueError, match="all zero"):
        gradient_penalty(critic, real, fake, weights=torch.zeros(16))
    with pytest.raises(ValueError, match="weights must be"):
        gradient_penalty(critic, real, fake, weights=torch.ones(3))
    with pytest.raises(ValueError, match="normalise=False needs weights"):
        gradient_penalty(critic, real, fake, normalise=False)
    with pytest.raises(ValueError, match="one number per sample"):
        gradient_penalty(critic, real, fake, eps=torch.rand(16, 6))
    with pytest.raises(ValueError, match="critic must return"):
        gradient_penalty(lambda x: x, real, fake)
    with pytest.raises(ValueError, match="gradient_penalty has no backend 'fortran'"):
        gradient_penalty(critic, real, fake, backend="fortran")
