"""Generator and critic: multilayer perceptrons called as `generator(z, c)` and `critic(x, c)`.

Shapes: B rows, C conditions (may be zero), L latent dimensions, D features, O outputs of the critic.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kantor.config import GeneratorNetwork, Network

_ACTIVATIONS: dict[str, Callable[[Network], nn.Module]] = {
    "leaky_relu": lambda network: nn.LeakyReLU(network.slope),
    "relu": lambda _: nn.ReLU(),
    "silu": lambda _: nn.SiLU(),
    "tanh": lambda _: nn.Tanh(),
    "softplus": lambda _: nn.Softplus(),
}


def perceptron(inputs: int, outputs: int, network: Network, *, output_bias: bool = True) -> nn.Sequential:
    """Linear layers with the activation, and the norm if asked for, between them."""
    layers: list[nn.Module] = []
    width = inputs
    for _ in range(network.depth):
        layers.append(nn.Linear(width, network.width))
        if network.norm == "layer":
            layers.append(nn.LayerNorm(network.width))
        layers.append(_ACTIVATIONS[network.activation](network))
        width = network.width
    layers.append(nn.Linear(width, outputs, bias=output_bias))
    return nn.Sequential(*layers)


class Generator(nn.Module):
    """(z (B, L), c (B, C)) -> transformed features (B, D)."""

    def __init__(self, network: GeneratorNetwork, conditions: int, features: int) -> None:
        super().__init__()
        self.latent = network.latent
        self.layers = perceptron(network.latent + conditions, features, network)

    def forward(self, z_BL: Tensor, c_BC: Tensor) -> Tensor:
        return self.layers(torch.cat([z_BL, c_BC], dim=-1))


class Critic(nn.Module):
    """(x (B, D), c (B, C)) -> (B, O): O = 1 for a Wasserstein critic, the embedding for a Cramér critic."""

    def __init__(
        self, network: Network, conditions: int, features: int, outputs: int, *, output_bias: bool = True
    ) -> None:
        super().__init__()
        self.layers = perceptron(features + conditions, outputs, network, output_bias=output_bias)

    def forward(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        return self.layers(torch.cat([x_BD, c_BC], dim=-1))
