"""Critics of all kinds that a penalty has to be right for, each on rows (B, 12) in float64."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from kantor_kernels import kernel_potential

D = 12


class Of(nn.Module):
    """A function of x and modules, which are its parameters."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.inner)


class PrivateDropout(nn.Module):
    """Dropout that draws from a generator of its own, begun anew at each call."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype)
        return x * (drawn > 0.3)


class Cube(torch.autograd.Function):
    """x^3, by rules of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return cotangents[0] * 3 * x**2


def mlp(activation: Callable[[], nn.Module], *between: Callable[[], nn.Module], width: int = 24) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise((D, width, width)):
        layers += [nn.Linear(fan_in, fan_out), *(make() for make in between), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def shaped(*shape: int) -> nn.Module:
    return nn.Unflatten(1, shape)


def images(*layers: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 1))


def residual() -> nn.Module:
    block = nn.Sequential(nn.LayerNorm(24), nn.SiLU(), nn.Linear(24, 24))
    return Of(lambda x, first, inner, last: last((h := first(x)) + inner(h)), nn.Linear(D, 24), block, nn.Linear(24, 1))


def attention() -> nn.Module:
    def score(x: Tensor, embed: nn.Module, attend: nn.Module, last: nn.Module) -> Tensor:
        h = embed(x.view(-1, 4, 3))
        return last(attend(h, h, h)[0].mean(1))

    return Of(score, nn.Linear(3, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 1))


def fused_attention() -> nn.Module:
    def score(x: Tensor, embed: nn.Module, last: nn.Module) -> Tensor:
        h = embed(x.view(-1, 4, 3))
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return last(F.scaled_dot_product_attention(h, h, h).mean(1))

    return Of(score, nn.Linear(3, 8), nn.Linear(8, 1))


def hooked() -> nn.Module:
    critic = mlp(nn.Tanh)
    critic[2].register_full_backward_hook(lambda module, by_input, by_output: None)
    return critic


def doubling() -> nn.Module:
    def twice(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return 2 * output

    critic = mlp(nn.Tanh)
    critic[0].register_forward_hook(twice)
    return critic


def tied() -> nn.Module:
    layer = nn.Linear(D, D)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(D, 1))


def parametrised(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(how(nn.Linear(D, 24)), nn.SiLU(), how(nn.Linear(24, 24)), nn.SiLU(), nn.Linear(24, 1))


def old(how: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def quietly(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return how(module)

    return quietly


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(mlp(nn.SiLU))


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(mlp(nn.SiLU, lambda: nn.LayerNorm(24)).double(), torch.randn(3, D).double())


def exported() -> nn.Module:
    rows = torch.export.Dim("rows", min=2)
    critic, x = mlp(nn.SiLU, lambda: nn.LayerNorm(24)).double(), torch.randn(3, D).double()
    return torch.export.export(critic, (x,), dynamic_shapes=({0: rows},)).module()


def witness() -> nn.Module:
    """A kernel's potential upstream of parameters."""
    others = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)).double()
    return Of(
        lambda x, first, last: last(kernel_potential(first(x), others)[:, None]), nn.Linear(D, 5), nn.Linear(1, 1)
    )


def matrices(score: Callable[[Tensor], Tensor]) -> nn.Module:
    """Of well-conditioned matrices (B, 3, 3)."""

    def of(x: Tensor, first: nn.Module) -> Tensor:
        m = first(x).view(-1, 3, 3).tanh()
        return score(m @ m.mT + torch.eye(3, dtype=x.dtype))

    return Of(of, nn.Linear(D, 9))


CRITICS: dict[str, Callable[[], nn.Module]] = {
    "leaky relu": lambda: mlp(lambda: nn.LeakyReLU(0.2)),
    "relu": lambda: mlp(nn.ReLU),
    "silu": lambda: mlp(nn.SiLU),
    "tanh": lambda: mlp(nn.Tanh),
    "softplus": lambda: mlp(nn.Softplus),
    "linear": lambda: nn.Sequential(nn.Linear(D, 1)),
    "gelu": lambda: mlp(nn.GELU),
    "elu": lambda: mlp(nn.ELU),
    "mish": lambda: mlp(nn.Mish),
    "sigmoid": lambda: mlp(nn.Sigmoid),
    "prelu": lambda: mlp(nn.PReLU),
    "glu": lambda: nn.Sequential(nn.Linear(D, 48), nn.GLU(), nn.Linear(24, 1)),
    "layer norm": lambda: mlp(nn.SiLU, lambda: nn.LayerNorm(24)),
    "rms norm": lambda: mlp(nn.SiLU, lambda: nn.RMSNorm(24)),
    "group norm": lambda: mlp(nn.Tanh, lambda: nn.GroupNorm(3, 24)),
    "instance norm": lambda: images(
        shaped(2, 6), nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True), nn.SiLU(), features=16
    ),
    "instance norm with running statistics": lambda: images(
        shaped(2, 6), nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, track_running_stats=True), nn.SiLU(), features=16
    ),
    "softmax": lambda: mlp(lambda: nn.Softmax(-1)),
    "log softmax": lambda: mlp(lambda: nn.LogSoftmax(-1)),
    "logsumexp": lambda: Of(lambda x, first: first(x).logsumexp(1), nn.Linear(D, 24)),
    "dropout": lambda: mlp(lambda: nn.LeakyReLU(0.2), lambda: nn.Dropout(0.3)),
    "alpha dropout": lambda: mlp(nn.SELU, lambda: nn.AlphaDropout(0.2)),
    "private dropout": lambda: mlp(nn.SiLU, PrivateDropout),
    "residual": residual,
    "convolution 1-d": lambda: images(
        shaped(1, 12), nn.Conv1d(1, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.AvgPool1d(2), features=8
    ),
    "convolution 2-d": lambda: images(
        shaped(1, 3, 4), nn.Conv2d(1, 4, 2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 2), nn.SiLU(), features=36
    ),
    "convolution 3-d": lambda: images(
        shaped(1, 3, 2, 2), nn.Conv3d(1, 4, 2, padding=1), nn.LeakyReLU(0.2), features=144
    ),
    "circular convolution": lambda: images(
        shaped(1, 3, 4), nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.SiLU(), features=48
    ),
    "transposed convolution": lambda: images(shaped(2, 6), nn.ConvTranspose1d(2, 3, 3), nn.SiLU(), features=24),
    "max pool": lambda: images(shaped(2, 6), nn.Conv1d(2, 4, 3), nn.MaxPool1d(2), nn.SiLU(), features=8),
    "attention": attention,
    "attention in three dimensions": fused_attention,
    "bilinear": lambda: Of(lambda x, f, last: last(f(x, x.sin()).tanh()), nn.Bilinear(D, D, 6), nn.Linear(6, 1)),
    "recurrent": lambda: Of(
        lambda x, cell, last: last(cell(x.view(-1, 4, 3))[0][:, -1]), nn.GRU(3, 6, batch_first=True), nn.Linear(6, 1)
    ),
    "spectral norm": lambda: parametrised(parametrizations.spectral_norm),
    "old spectral norm": lambda: parametrised(old(nn.utils.spectral_norm)),
    "weight norm": lambda: parametrised(parametrizations.weight_norm),
    "old weight norm": lambda: parametrised(old(nn.utils.weight_norm)),
    "tied layers": tied,
    "scripted": scripted,
    "traced": traced,
    "exported": exported,
    "checkpoint": lambda: Of(
        lambda x, inner: checkpoint(inner, x, use_reentrant=False),  # pyright: ignore
        mlp(nn.SiLU),
    ),
    "backward hook": hooked,
    "forward hook": doubling,
    "own function": lambda: Of(lambda x, f, last: last(Cube.apply(f(x))), nn.Linear(D, 6), nn.Linear(6, 1)),
    "kernel potential": witness,
    "logdet": lambda: matrices(torch.logdet),
    "solve": lambda: matrices(lambda m: torch.linalg.solve(m, torch.ones_like(m[:, 0])).sum(1)),
    "eigenvalues": lambda: matrices(lambda m: torch.linalg.eigvalsh(m)[:, -1]),
    "quantised": lambda: Of(lambda x, f, last: last(f(x) + f(x).detach().round()), nn.Linear(D, 6), nn.Linear(6, 1)),
}


def made(name: str) -> nn.Module:
    """The critic in float64, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return CRITICS[name]().double()


@pytest.fixture
def build() -> Callable[[str], nn.Module]:
    return made


@pytest.fixture(params=CRITICS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Real and generated rows, and eps."""
    generator = torch.Generator().manual_seed(3)
    real, fake = (torch.randn(16, D, generator=generator, dtype=torch.float64) for _ in range(2))
    return real, fake, torch.rand(16, generator=generator, dtype=torch.float64)
