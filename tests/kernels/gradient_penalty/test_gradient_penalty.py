"""The penalty and its parameter gradients are those of a double backward, for every kind of critic."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kantor_kernels import GradientPenalty, explain_penalty, gradient_penalty
from kantor_kernels.backends import why_not_compile
from kantor_kernels.testing import assert_close


def parameter_gradients(critic: nn.Module, penalty: Tensor) -> list[Tensor]:
    parameters = list(critic.parameters())
    grads = torch.autograd.grad(penalty, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


Build = Callable[[str], nn.Module]
Batch = tuple[Tensor, Tensor, Tensor]


def seeded(compute: Callable[[], Tensor]) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return compute()


def plain(
    critic: Callable[..., Tensor], real: Tensor, fake: Tensor, eps: Tensor, target: float, one_sided: bool
) -> Tensor:
    """The definition as anyone would write it."""
    x_hat = (eps[:, None] * real + (1 - eps[:, None]) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)
    excess = slope.square().sum(1).sqrt() - target
    return (excess.clamp_min(0) if one_sided else excess).square().mean()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("one_sided", [False, True])
def test_it_equals_double_backward(name: str, one_sided: bool, build: Build, batch: Batch) -> None:
    """Twice in a row, and with what one evaluation leaves behind in buffers and random numbers."""
    real, fake, eps = batch
    ours, theirs = build(name), build(name)
    target = 0.3 if one_sided else 1.0
    for _ in range(2):
        found = seeded(lambda: gradient_penalty(ours, real, fake, eps=eps, target=target, one_sided=one_sided))
        exact = seeded(lambda: plain(theirs, real, fake, eps, target, one_sided))
        assert_close("value", found, exact, rtol=1e-10)
        for mine, other in zip(parameter_gradients(ours, found), parameter_gradients(theirs, exact), strict=True):
            assert_close(name, mine, other, rtol=1e-10, atol=1e-10 * max(1.0, float(other.abs().max())))
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert_close("buffer", mine, other, rtol=1e-10)


# Spectral norms take another step of their iteration at each call, and leave it out of the derivative.
ITERATED = ("spectral norm", "old spectral norm")
# What these round has no derivative, as it should be.
ROUNDED = ("quantised",)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:.*weight_norm:FutureWarning")
def test_the_gradient_is_the_slope_of_the_value(name: str, build: Build, batch: Batch) -> None:
    """Along one direction of all parameters, by central differences: no derivative rule has a part in it."""
    if name in (*ITERATED, *ROUNDED):
        return
    real, fake, eps = batch
    critic = build(name)
    gradients = parameter_gradients(critic, seeded(lambda: gradient_penalty(critic, real, fake, eps=eps)))
    generator = torch.Generator().manual_seed(8)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in critic.parameters()]
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for parameter, direction in zip(critic.parameters(), directions, strict=True):
                parameter += step * direction
            values.append(seeded(lambda: gradient_penalty(critic, real, fake, eps=eps)).item())
            for parameter, direction in zip(critic.parameters(), directions, strict=True):
                parameter -= step * direction
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["leaky relu", "silu", "layer norm", "attention", "dropout", "scripted"])
def test_threads_do_not_meet(name: str, build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    critic = build(name).eval()

    def gradients(_: int) -> list[Tensor]:
        return parameter_gradients(critic, gradient_penalty(critic, real, fake, eps=eps))

    alone = gradients(0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(gradients, range(100)):
            for mine, other in zip(found, alone, strict=True):
                assert_close(name, mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["leaky relu", "layer norm", "convolution 2-d"])
def test_under_autocast_the_critic_is_rounded_as_in_eager(name: str, build: Build, batch: Batch) -> None:
    real, fake, eps = (values.float() for values in batch)
    critic = build(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert explain_penalty(critic, real).backend == "reference"
        found, exact = gradient_penalty(critic, real, fake, eps=eps), plain(critic, real, fake, eps, 1.0, False)
    assert found.dtype == torch.float32
    assert_close("value", found, exact, rtol=1e-3)
    for mine, other in zip(parameter_gradients(critic, found), parameter_gradients(critic, exact), strict=True):
        assert_close(name, mine, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


RANK = """
import sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[3])
import conftest as zoo
from kantor_kernels import explain_penalty, gradient_penalty

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
generator = torch.Generator().manual_seed(3)
real, fake = torch.randn(2, 16, zoo.D, generator=generator, dtype=torch.float64)
eps, share = torch.rand(16, generator=generator, dtype=torch.float64), torch.full((16,), 1 / 16, dtype=torch.float64)

def loss(critic, penalised, rows):
    penalty = gradient_penalty(
        penalised, real[rows], fake[rows], eps=eps[rows], weights=share[rows], normalise=False
    )
    return share[rows] @ (critic(fake[rows]) - critic(real[rows])).squeeze(1) + 10 * penalty

for name in ("leaky relu", "silu", "layer norm", "attention", "convolution 2-d", "tied layers", "checkpoint"):
    bare = zoo.made(name)
    whole = torch.autograd.grad(loss(bare, bare, slice(None)), list(bare.parameters()))
    for wrapped in (False, True):
        critic = DistributedDataParallel(bare, broadcast_buffers=False)
        bare.zero_grad()
        # Gradients are averaged over ranks.
        (2 * loss(critic, critic if wrapped else bare, slice(8 * rank, 8 * rank + 8))).backward()
        for parameter, exact in zip(bare.parameters(), whole, strict=True):
            torch.testing.assert_close(parameter.grad, exact, rtol=1e-11, atol=1e-12)
    print(name, explain_penalty(bare, real).backend)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path) -> None:
    """With an ordinary `backward()` under `DistributedDataParallel`, whose critic or its bare module is penalised."""
    command = [sys.executable, "-W", "ignore", "-c", RANK]
    arguments = [str(tmp_path / "store"), str(Path(__file__).parent)]
    ranks = [
        subprocess.Popen([*command, str(rank), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    for process in ranks:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert said.splitlines()[0] == "leaky relu closed"
        assert said.splitlines()[-1] == "checkpoint reference"


COMPILED = pytest.mark.skipif(why_not_compile(torch.device("cpu")) is not None, reason="needs a C++ compiler")


# PyTorch's compiler uses what PyTorch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, COMPILED])])
@pytest.mark.parametrize("name", ["leaky relu", "layer norm", "convolution 1-d"])
def test_it_compiles_as_one_graph(name: str, compiler: str, build: Build, batch: Batch) -> None:
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


def test_weights_are_taken_by_magnitude(build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    weights = torch.linspace(-1, 2, 16, dtype=torch.float64)
    critic = build("silu")
    penalty, norms = gradient_penalty(critic, real, fake, eps=eps, weights=weights, return_norms=True)
    exact = gradient_penalty(critic, real, fake, eps=eps, weights=weights, backend="reference")
    for ours, theirs in zip(*(parameter_gradients(critic, p) for p in (penalty, exact)), strict=True):
        assert_close("weighted", ours, theirs, rtol=1e-12, atol=1e-13)
    by_hand = (weights.abs() * (norms - 1) ** 2).sum() / weights.abs().sum()
    assert_close("mean", penalty, by_hand, rtol=1e-12)


def test_ranks_with_global_weights_add_up(build: Build, batch: Batch) -> None:
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


def test_conditions_are_passed_through_and_not_interpolated(build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    conditions = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = nn.Linear(14, 1).double()
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


def test_a_vanishing_gradient_is_no_nan(build: Build, batch: Batch) -> None:
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


def test_eps_is_one_number_a_sample_drawn_by_the_generator(build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    points = []

    def critic(x: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return x.square().sum(1)

    for _ in range(2):
        gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(9))
    assert torch.equal(points[0], points[-1])
    drawn = torch.rand(16, generator=torch.Generator().manual_seed(9)).double()[:, None]
    assert_close("x_hat", points[0], drawn * real + (1 - drawn) * fake, rtol=1e-14, atol=1e-15)
    points.clear()
    gradient_penalty(critic, real, fake, eps=eps[:, None])
    assert_close("given", points[0], eps[:, None] * real + (1 - eps[:, None]) * fake, rtol=1e-14, atol=1e-15)


def test_nothing_flows_into_the_samples(build: Build, batch: Batch) -> None:
    real, fake, _ = batch
    fake = fake.clone().requires_grad_()
    gradient_penalty(build("tanh"), real, fake).backward()
    assert fake.grad is None


def test_without_grad_mode_the_value_is_the_same(build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    critic = build("tanh")
    with torch.no_grad():
        value = gradient_penalty(critic, real, fake, eps=eps)
    assert not value.requires_grad
    assert value.item() == gradient_penalty(critic, real, fake, eps=eps).item()


def test_a_second_derivative_is_refused_by_the_closed_form_alone(build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    critic = build("tanh")
    weight = next(critic.parameters())
    with pytest.raises(NotImplementedError, match=r"differentiable once.*backend='reference'"):
        torch.autograd.grad(gradient_penalty(critic, real, fake), weight, create_graph=True)
    critic = build("sigmoid")
    weight = next(critic.parameters())

    def slope(value: Tensor) -> Tensor:
        with torch.no_grad():
            weight.copy_(value)
        (found,) = torch.autograd.grad(gradient_penalty(critic, real, fake, eps=eps), weight, create_graph=True)
        return found

    at = weight.detach().clone()
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=weight.dtype)
    (curved,) = torch.autograd.grad((slope(at) * direction).sum(), weight)
    differences = (slope(at + 1e-6 * direction) - slope(at - 1e-6 * direction)).detach() / 2e-6
    assert_close("second derivative", curved, differences, rtol=1e-5, atol=1e-7)


def test_gradients_may_be_asked_for_again(build: Build, batch: Batch) -> None:
    """As with any graph that is kept, and what was handed out before is the caller's."""
    real, fake, eps = batch
    critic = build("leaky relu")
    penalty = gradient_penalty(critic, real, fake, eps=eps)
    first = torch.autograd.grad(penalty, list(critic.parameters()), retain_graph=True)
    before = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    for mine, other in zip(torch.autograd.grad(3 * penalty, list(critic.parameters())), before, strict=True):
        assert_close("again", mine, 3 * other, rtol=1e-14)


def test_what_runs_is_explained(build: Build, batch: Batch) -> None:
    real, _, _ = batch
    closed = explain_penalty(build("silu"), real)
    assert closed.backend == "closed"
    assert "by cpu" in closed.reason
    critic = build("silu")
    frozen = build("silu").requires_grad_(False)
    for said, explained in {
        "no nn.Sequential": explain_penalty(build("attention"), real),
        "of a function": explain_penalty(lambda x: x.sum(1), real),
        "twice": explain_penalty(build("tied layers"), real),
        "a hook is registered": explain_penalty(build("forward hook"), real),
        "conditions": explain_penalty(critic, real, conditions=real),
        "requires a gradient": explain_penalty(frozen, real),
        "(B, 12) in torch.float64": explain_penalty(critic, real[:, :3]),
        "asked for": explain_penalty(critic, real, backend="reference"),
    }.items():
        assert explained.backend == "reference"
        assert said in explained.reason, explained.reason
    with torch.no_grad():
        assert explain_penalty(critic, real).backend == "reference"
    with pytest.raises(ValueError, match="'closed' of gradient_penalty cannot run: of the critic, it is no"):
        explain_penalty(build("attention"), real, backend="closed")


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_transforms_give_the_gradients_of_double_backward(backend: str, build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    critic = build("tanh")
    expected = parameter_gradients(critic, gradient_penalty(critic, real, fake, eps=eps, backend="reference"))

    def penalty(parameters: dict[str, Tensor]) -> Tensor:
        called = partial(torch.func.functional_call, critic, parameters)
        return gradient_penalty(called, real, fake, eps=eps, backend=backend)

    found = torch.func.grad(penalty)({name: p.detach() for name, p in critic.named_parameters()})
    for (name, ours), exact in zip(found.items(), expected, strict=True):
        assert_close(name, ours, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_penalties_are_float32(dtype: torch.dtype, build: Build, batch: Batch) -> None:
    real, fake, eps = batch
    critic = build("silu")
    exact = gradient_penalty(critic, real, fake, eps=eps)
    low = gradient_penalty(copy.deepcopy(critic).to(dtype), real.to(dtype), fake.to(dtype), eps=eps)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=1e-5 if dtype == torch.float32 else 0.05)


def test_bad_input_is_refused(build: Build, batch: Batch) -> None:
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
        gradient_penalty(critic, real, fake, eps=torch.rand(16, 12))
    with pytest.raises(ValueError, match="critic must return"):
        gradient_penalty(lambda x: x, real, fake)
    with pytest.raises(ValueError, match="gradient_penalty has no backend 'fortran'"):
        gradient_penalty(critic, real, fake, backend="fortran")
