"""The critics that a gradient penalty is measured on. But for the first, none has a kink, at which gradients jump."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH = 128


def _perceptron(generator: torch.Generator) -> nn.Sequential:
    """With weights of He's variance."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise([8, *[WIDTH] * 4, 1]):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5, generator=generator)
        nn.init.normal_(layer.bias, std=0.1, generator=generator)
        layers += [layer, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def _silu(generator: torch.Generator) -> nn.Sequential:
    return _smooth()


def _layer_norm(generator: torch.Generator) -> nn.Sequential:
    return _smooth(lambda: nn.LayerNorm(WIDTH))


def _smooth(*between: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in in (8, WIDTH, WIDTH, WIDTH):
        layers += [nn.Linear(fan_in, WIDTH), *(make() for make in between), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


class _Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _residual(generator: torch.Generator) -> nn.Sequential:
    blocks = [
        _Residual(nn.Sequential(nn.LayerNorm(WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))) for _ in range(3)
    ]  # fmt: skip
    return nn.Sequential(nn.Linear(8, WIDTH), *blocks, nn.Linear(WIDTH, 1))


def _images(generator: torch.Generator) -> nn.Sequential:
    convolutions = [nn.Conv2d(1, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(nn.Unflatten(1, (1, 12, 12)), *convolutions, nn.Flatten(), nn.Linear(32 * 9, 1))


def _volumes(generator: torch.Generator) -> nn.Sequential:
    convolutions = [nn.Conv3d(1, 8, 3, 2, 1), nn.SiLU(), nn.Conv3d(8, 16, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8, 4)), *convolutions, nn.Flatten(), nn.Linear(16 * 4, 1))


class _Attention(nn.Module):
    """Of eight points of four numbers each."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.embed, self.score = nn.Linear(4, 32), nn.Linear(32, 1)
        self.attend = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.unflatten(1, (-1, 4)))
        return self.score((h + self.attend(h, h, h)[0]).mean(1))


# Features of a row, and the critic.
CRITICS: dict[str, tuple[int, Callable[[torch.Generator], nn.Module]]] = {
    "8-128x4-1, leaky ReLU": (8, _perceptron),
    "8-128x4-1, SiLU": (8, _silu),
    "8-128x4-1, LayerNorm": (8, _layer_norm),
    "residual 8-128x3-1": (8, _residual),
    "convolution 12 x 12": (144, _images),
    "convolution 8 x 8 x 4": (256, _volumes),
    "attention 8 x 4": (32, _Attention),
}


def made(kind: str, generator: torch.Generator) -> nn.Module:
    """The critic of this kind, the same for every generator that was seeded so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CRITICS[kind][1](generator)
