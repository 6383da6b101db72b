"""What only a CUDA device can show of the critic step: its accuracy there, no waiting for the device, CUDA graphs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from kantor_kernels import CriticStep, mlp_critic_step
from kantor_kernels.testing import assert_close

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def problem(sizes: list[int], batch: int, activation: type[nn.Module]) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A critic, real and generated rows, and uniform numbers, on the CPU."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), activation()]
        real, fake = torch.randn(2, batch, sizes[0])
        return nn.Sequential(*layers[:-1]), real, fake, torch.rand(batch)


def everything(step: CriticStep) -> dict[str, Tensor]:
    found = {f"gradient {index}": gradient for index, gradient in enumerate(step.gradients)}
    return {"loss": step.loss, "distance": step.distance, "penalty": step.penalty, "norms": step.norms, **found}


# Smooth ones: near a kink, rounding decides the gradient.
@pytest.mark.parametrize("activation", [nn.SiLU, nn.Tanh, nn.Softplus])
@pytest.mark.parametrize("loss", ["wasserstein", "energy", "surrogate"])
@pytest.mark.parametrize("width, batch", [(17, 6), (100, 66), (128, 512), (128, 4096), (256, 130)])
def test_accuracy(width: int, batch: int, loss: str, activation: type[nn.Module]) -> None:
    outputs = 1 if loss == "wasserstein" else 32
    critic, real, fake, eps = problem([8, width, width, width, outputs], batch, activation)
    eps = eps[: batch // 2] if loss == "energy" else eps
    exact, plain, ours = (
        everything(
            mlp_critic_step(
                critic.to("cuda", dtype), *(t.to("cuda", dtype) for t in (real, fake)), loss=loss, target=0.5,
                eps=eps.to("cuda", dtype), backend=how,
            )
        )
        for how, dtype in (("reference", torch.float64), ("reference", torch.float32), ("triton", torch.float32))
    )  # fmt: skip
    for name, value in ours.items():
        scale = max(0.1 if loss == "wasserstein" else 1.0, float(exact[name].abs().max()))
        assert_close(name, value, exact[name], baseline=plain[name], atol=2e-6 * scale)


def test_a_wide_critic_is_compiled_and_its_results_last() -> None:
    critic, real, fake, eps = problem([8, 512, 512, 1], 256, nn.SiLU)
    exact, plain = (
        everything(
            mlp_critic_step(
                critic.to("cuda", dtype), real.to("cuda", dtype), fake.to("cuda", dtype), eps=eps.to("cuda", dtype),
                backend="reference",
            )
        )
        for dtype in (torch.float64, torch.float32)
    )  # fmt: skip
    critic, real, fake, eps = critic.to("cuda", torch.float32), real.cuda(), fake.cuda(), eps.cuda()
    steps = [everything(mlp_critic_step(critic, real, fake, eps=eps)) for _ in range(4)]
    mlp_critic_step(critic, fake, real, eps=eps)
    for step in steps:
        for name, value in step.items():
            scale = max(0.1, float(exact[name].abs().max()))
            assert_close(name, value, exact[name], baseline=plain[name], atol=2e-6 * scale)


@pytest.mark.parametrize("loss", ["wasserstein", "energy"])
@pytest.mark.parametrize("batch", [64, 512])
def test_a_step_becomes_a_graph_and_never_waits(batch: int, loss: str) -> None:
    outputs = 1 if loss == "wasserstein" else 32
    critic, real, fake, eps = problem([8, 128, 128, outputs], batch, nn.LeakyReLU)
    critic, real, fake, eps = critic.cuda(), real.cuda(), fake.cuda(), eps.cuda()
    eps = eps[: batch // 2] if loss == "energy" else eps

    def call() -> CriticStep:
        return mlp_critic_step(critic, real, fake, loss=loss, eps=eps, backend="triton")

    first = everything(call())
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = everything(call())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, value in first.items():
        assert torch.equal(value, again[name]), f"{name} differs between two calls"

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything(call())
    # A replay must see new rows and new parameters.
    with torch.no_grad():
        real.add_(0.5)
        for parameter in critic.parameters():
            parameter.mul_(0.9)
    graph.replay()
    for name, value in everything(call()).items():
        assert torch.equal(value, captured[name]), f"{name} of the graph differs"
