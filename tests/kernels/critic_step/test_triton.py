"""The Triton backend of the critic step: on its interpreter against the definition, its launches, what it refuses."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kantor_kernels import CriticStep, Perceptron, gradient_penalty, mlp_critic_step
from kantor_kernels.critic_step.functional import penalty_alone
from kantor_kernels.testing import assert_close, poisoned_memory

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
REFUSES = "test_it_refuses_what_it_cannot_run"
QUICK = ("test_of_one_shape", "test_launches_of_an_update", REFUSES)
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="runs in the process with the interpreter that a test above starts",
)


@pytest.mark.parametrize("group", ["quick", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="this is the interpreter's own process")
def test_the_interpreter_passes_the_tests_of_this_file(group: str, elsewhere: Callable[..., None]) -> None:
    marked = {name for name, test in globals().items() if interpreted.mark in getattr(test, "pytestmark", [])}
    assert marked > set(QUICK) - {REFUSES}
    names = QUICK if group == "quick" else sorted({*marked, REFUSES})
    elsewhere({Path(__file__): names}, TRITON_INTERPRET="1")


def test_it_refuses_what_it_cannot_run() -> None:
    real, fake = torch.randn(2, 4, 3)
    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ValueError, match="cannot run on cpu"):
            mlp_critic_step(perceptron(3, [8], 1, "relu"), real, fake, backend="triton")
        return
    wide, shallow, double = (
        perceptron(3, [257], 1, "relu"),
        nn.Sequential(nn.Linear(3, 1)),
        perceptron(3, [8], 1, "relu"),
    )
    for critic, rows in ((wide, real), (shallow, real), (double.double(), real.double())):
        with pytest.raises(ValueError, match="at least two layers of at most 256 units in float32"):
            mlp_critic_step(critic, rows, rows + 1, backend="triton")


def perceptron(inputs: int, hidden: list[int], outputs: int, activation: str, *, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for fan_in, fan_out in itertools.pairwise([inputs, *hidden, outputs]):
            layers += [nn.Linear(fan_in, fan_out, bias=bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def check(
    critic: nn.Sequential,
    batch: int,
    features: int,
    *,
    loss: str = "wasserstein",
    one_sided: bool = False,
    eps: Tensor | None = None,
    alike: bool = False,
) -> None:
    """Everything against the definition in float64, at most twice as far from it as the definition in float32."""
    points = batch // 2 if loss == "energy" else batch
    seed = batch
    real, fake, arguments = drawn(critic, batch, features, points, eps, alike, seed)
    while near_a_kink(critic, real, fake, arguments):
        seed += 1
        real, fake, arguments = drawn(critic, batch, features, points, eps, alike, seed)
    if loss == "energy":
        del arguments["fake_coefficients"]

    def step(backend: str, dtype: torch.dtype) -> CriticStep:
        return mlp_critic_step(
            critic.to(dtype), real.to(dtype), fake.to(dtype), loss=loss, weight=7.0, target=0.3, one_sided=one_sided,
            backend=backend, **{name: value.to(dtype) for name, value in arguments.items()},
        )  # fmt: skip

    exact, plain = step("reference", torch.float64), step("reference", torch.float32)
    with poisoned_memory():
        ours = step("triton", torch.float32)
    assert len(ours.gradients) == len(exact.gradients)
    names = [*CriticStep._fields[:-1], *(f"gradient {index}" for index in range(len(exact.gradients)))]
    for name, *values in zip(names, *([*s[:-1], *s.gradients] for s in (ours, exact, plain)), strict=True):
        # Directions of small differences of embeddings carry the rounding of the embeddings.
        scale = max(0.1 if loss == "wasserstein" else 1.0, float(values[1].abs().max()))
        assert_close(name, values[0], values[1], baseline=values[2], atol=2e-6 * scale)


def first(critic: nn.Sequential) -> nn.Linear:
    layer = critic[0]
    assert isinstance(layer, nn.Linear)
    return layer


def drawn(
    critic: nn.Sequential, batch: int, features: int, points: int, eps: Tensor | None, alike: bool, seed: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Real and generated rows, and all else, weights of either sign."""
    generator = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(2, batch, features, generator=generator)
    arguments = {
        "coefficients": torch.randn(points, generator=generator) / points,
        "fake_coefficients": torch.randn(points, generator=generator) / points,
        "penalty_coefficients": torch.rand(points, generator=generator) / points,
        "eps": torch.rand(points, generator=generator) if eps is None else eps,
        "conditions": torch.randn(batch, first(critic).in_features - features, generator=generator),
    }
    return real, real.clone() if alike else fake, arguments


def near_a_kink(critic: nn.Sequential, real: Tensor, fake: Tensor, arguments: dict[str, Any]) -> bool:
    """Whether rounding could put a row on the other side of a kink, where the gradient differs for good."""
    eps, conditions = arguments["eps"][:, None], arguments["conditions"]
    step = len(real) // len(eps)
    h = torch.cat([real, fake, eps * real[::step] + (1 - eps) * fake[::step]])
    h = torch.cat([h, torch.cat([conditions, conditions, conditions[::step]])], 1)
    for layer in critic:
        if isinstance(layer, nn.LeakyReLU | nn.ReLU) and bool((h.abs() < 2e-6).any()):
            return True
        h = layer(h)
    return False


@interpreted
def test_of_one_shape() -> None:
    check(perceptron(7, [20, 24], 1, "silu"), 19, 5)
    check(perceptron(7, [20, 24], 6, "leaky_relu"), 18, 5, loss="energy")


@interpreted
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("loss", ["wasserstein", "energy", "surrogate"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_loss_and_activation(activation: str, loss: str, one_sided: bool) -> None:
    outputs = 1 if loss == "wasserstein" else 7
    check(perceptron(8, [20, 24, 17], outputs, activation), 18, 5, loss=loss, one_sided=one_sided)


@interpreted
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
@pytest.mark.parametrize("width", [1, 17, 64, 128, 256])
def test_widths(width: int, activation: str) -> None:
    check(perceptron(4, [width, width], 1, activation), 16, 4)
    check(perceptron(4, [width, width], width, activation), 16, 4, loss="energy")


@interpreted
@pytest.mark.parametrize("activation", ["leaky_relu", "softplus"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_depths(depth: int, activation: str) -> None:
    for loss, outputs in (("wasserstein", 1), ("surrogate", 5)):
        check(perceptron(4, [16] * depth, outputs, activation, bias=depth % 2 == 0), 10, 4, loss=loss)


@interpreted
@pytest.mark.parametrize("batch", [1, 3, 16, 67])
def test_batches(batch: int) -> None:
    for activation in ("leaky_relu", "tanh"):
        check(perceptron(6, [32, 32], 1, activation), batch, 6)
    for loss in ("energy", "surrogate"):
        check(perceptron(6, [32, 32], 4, "leaky_relu"), 2 * batch, 6, loss=loss)


@interpreted
@pytest.mark.parametrize("batch", [1, 33, 67])
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_the_penalty_alone(activation: str, batch: int) -> None:
    """Without real and generated rows, in memory that holds NaN at first."""
    critic = perceptron(5, [20, 24], 1, activation)
    generator = torch.Generator().manual_seed(batch)
    real, fake = torch.randn(2, batch, 5, generator=generator)
    eps, share = torch.rand(batch, 1, generator=generator), torch.rand(batch, generator=generator) / batch
    found = Perceptron.of(critic)
    assert found is not None
    with poisoned_memory():
        ours = penalty_alone(found, real, fake, eps, share, 0.7, False, "triton")
    assert ours.distance == 0
    exact, norms = gradient_penalty(
        critic, real, fake, eps=eps, weights=share, normalise=False, target=0.7, return_norms=True, backend="reference"
    )
    assert_close("penalty", ours.penalty, exact, rtol=1e-5)
    assert_close("norms", ours.norms, norms, rtol=1e-5)
    gradients = torch.autograd.grad(exact, list(critic.parameters()), allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(ours.gradients, gradients, strict=True):
        assert_close("gradient", mine, theirs, rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize("loss", ["wasserstein", "energy", "surrogate"])
def test_points_at_either_end(loss: str) -> None:
    """At eps = 0 and 1 the point between is a row, and its embedding may coincide with one it is compared with."""
    critic = perceptron(4, [16, 16], 1 if loss == "wasserstein" else 5, "silu")
    eps = torch.arange(5 if loss == "energy" else 10) % 2
    check(critic, 10, 4, loss=loss, eps=eps.float())
    check(critic, 10, 4, loss=loss, eps=eps.float(), alike=True)


@interpreted
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_vanishing_gradients(activation: str) -> None:
    """A critic that does not depend on the features has |g| = 0, where the penalty has no direction."""
    critic = perceptron(6, [16, 16], 1, activation)
    with torch.no_grad():
        first(critic).weight[:, :4] = 0
    check(critic, 10, 4)


@interpreted
def test_rows_in_parts_and_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    implementation = importlib.import_module("kantor_kernels.critic_step.triton")
    monkeypatch.setattr(implementation, "PART", 64)
    monkeypatch.setattr(implementation, "FEW", 0)
    implementation._plan.cache_clear()
    for loss, outputs in (("wasserstein", 1), ("energy", 5)):
        for activation in ("leaky_relu", "silu"):
            check(perceptron(4, [40, 40, 40], outputs, activation), 70, 4, loss=loss)
    implementation._plan.cache_clear()


@interpreted
def test_strided_rows_and_parameters() -> None:
    critic = perceptron(4, [16, 16], 1, "relu")
    weight = torch.randn(16, 32)[:, ::2]
    critic[2].weight = nn.Parameter(weight)
    assert not critic[2].weight.is_contiguous()
    real, fake = torch.randn(2, 4, 10).mT
    eps = torch.rand(20)[::2]
    with poisoned_memory():
        ours, exact = (mlp_critic_step(critic, real, fake, eps=eps, backend=how) for how in ("triton", "reference"))
    for mine, theirs in zip(ours.gradients, exact.gradients, strict=True):
        assert_close("gradient", mine, theirs, rtol=1e-5, atol=1e-5)


class Launches(TorchDispatchMode):
    """Counts operations that would launch a kernel on a GPU: neither views nor allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        silent = func.is_view or name.startswith(("empty", "new_empty", "_unsafe_view", "_record_function"))
        self.count += not silent
        return func(*args, **(kwargs or {}))


@interpreted
@pytest.mark.parametrize("loss, batch, launches", [("wasserstein", 64, 4), ("wasserstein", 512, 5), ("energy", 64, 6)])
def test_launches_of_an_update(loss: str, batch: int, launches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A critic update, fused Adam included, sampling not, against the same by double backward."""
    implementation = importlib.import_module("kantor_kernels.critic_step.triton")
    # On a device, for which nothing waits, eps is not looked at.
    functional = importlib.import_module("kantor_kernels.critic_step.functional")
    monkeypatch.setattr(functional, "check_shares", lambda name, values: None)
    triton_launches = []
    for name in ("critic_kernel", "gradient_kernel"):
        monkeypatch.setattr(implementation, name, Counted(triton_launches))
    critic = perceptron(8, [128] * 4, 1 if loss == "wasserstein" else 64, "leaky_relu")
    points = batch // 2 if loss == "energy" else batch
    real, fake = torch.randn(2, batch, 8)
    eps, share = torch.rand(points), torch.full((points,), 1 / points)
    adam = torch.optim.Adam(critic.parameters(), fused=True)

    def update(backend: str) -> int:
        triton_launches.clear()
        with Launches() as aten:
            step = mlp_critic_step(
                critic, real, fake, loss=loss, eps=eps, coefficients=share, penalty_coefficients=share, backend=backend
            )
            for parameter, gradient in zip(critic.parameters(), step.gradients, strict=True):
                parameter.grad = gradient
            adam.step()
        return aten.count + len(triton_launches)

    update("reference")  # Adam's state
    theirs, _, ours = update("reference"), update("triton"), update("triton")
    assert ours == launches
    assert theirs >= 160


class Counted:
    """A kernel that is not run: the interpreter's own operations would be counted with it."""

    def __init__(self, launches: list[Any]) -> None:
        self.launches = launches

    def __getitem__(self, grid: Any) -> Any:
        self.launches.append(grid)
        return lambda *args, **kwargs: None
