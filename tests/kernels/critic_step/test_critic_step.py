"""The closed form is the loss, the penalty and the gradients that autograd finds by double backward."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from kantor_kernels import CriticStep, mlp_critic_step
from kantor_kernels.testing import assert_close

B, D, C = 16, 5, 3
LOSSES = {"wasserstein": 1, "energy": 7, "surrogate": 7}
ACTIVATIONS = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}


def perceptron(activation: str, outputs: int, *, depth: int = 3, bias: bool = True) -> nn.Sequential:
    widths = [D + C, *[20 + 3 * layer for layer in range(depth)], outputs]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out, bias=bias or fan_out != outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1]).double()


def rows(seed: int = 2, b: int = B) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(b, n, generator=generator, dtype=torch.float64) for n in (D, D, C))  # pyright: ignore


def flat(step: CriticStep) -> dict[str, Tensor]:
    found = {f"gradient {i}": grad for i, grad in enumerate(step.gradients)}
    return {**step._asdict(), **found} | {"gradients": step.loss}


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_equals_double_backward(activation: str, loss: str, backend: str) -> None:
    critic = perceptron(activation, LOSSES[loss], bias=loss == "surrogate")
    real, fake, conditions = rows()
    points = B // 2 if loss == "energy" else B
    options = {
        "conditions": conditions,
        "loss": loss,
        "weight": 7.0,
        "target": 0.3,
        "eps": torch.linspace(0.1, 0.9, points, dtype=torch.float64),
        "coefficients": torch.linspace(-0.3, 1, points, dtype=torch.float64),
        "penalty_coefficients": torch.linspace(0, 1, points, dtype=torch.float64),
    }
    if loss == "wasserstein":
        options["fake_coefficients"] = torch.linspace(0.5, 0.1, points, dtype=torch.float64)
    for one_sided in (False, True):
        ours, exact = (
            flat(mlp_critic_step(critic, real, fake, one_sided=one_sided, backend=each, **options))
            for each in (backend, "reference")
        )
        assert ours.keys() == exact.keys()
        for name, value in ours.items():
            assert_close(name, value, exact[name], rtol=1e-12, atol=1e-12 * max(1.0, float(exact[name].abs().max())))
