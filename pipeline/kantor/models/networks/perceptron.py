"""Generator and critic as multilayer perceptrons.

Shapes: B rows, C conditions (may be zero), L latent dimensions, D features, O outputs of the critic, W units of a
hidden layer, U units with dropout of all layers together.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from kantor.config import CriticNetwork, GeneratorNetwork, Network
from kantor.models.networks.base import Critic, Generator
from kantor.models.networks.layers import Dropout, GroupDeviation, Residual
from kantor_kernels import Perceptron, mlp_forward

_ACTIVATIONS: dict[str, Callable[[Network], nn.Module]] = {
    "leaky_relu": lambda network: nn.LeakyReLU(network.slope),
    "relu": lambda _: nn.ReLU(),
    "silu": lambda _: nn.SiLU(),
    "tanh": lambda _: nn.Tanh(),
    "softplus": lambda _: nn.Softplus(),
}
_INITIALISE: dict[str, Callable[[Tensor, Network], Tensor]] = {
    "kaiming": lambda weight, network: nn.init.kaiming_normal_(
        weight, a=network.slope if network.activation == "leaky_relu" else 0.0
    ),
    "xavier": lambda weight, _: nn.init.xavier_normal_(weight),
    "orthogonal": lambda weight, _: nn.init.orthogonal_(weight),
}


def perceptron(
    inputs: int, outputs: int, network: Network, *, output_bias: bool = True, dropout: float = 0.0, group: int = 0
) -> nn.Sequential:
    """Linear layers with the activation, and the norm if asked for, between them.

    Args:
        dropout: probability with which a hidden unit is left out.
        group: rows of a group whose standard deviation the last layer also sees; 0: none.
    """
    layers: list[nn.Module] = []
    width = inputs
    for depth in range(network.depth):
        hidden: list[nn.Module] = [_linear(width, network.width, network)]
        if network.norm == "layer":
            hidden.append(nn.LayerNorm(network.width))
        hidden.append(_ACTIVATIONS[network.activation](network))
        layers += [Residual(*hidden)] if network.residual and depth > 0 else hidden
        if dropout > 0:
            layers.append(Dropout(dropout, network.width))
        width = network.width
    if group:
        layers.append(GroupDeviation(group))
    layers.append(_linear(width + bool(group), outputs, network, bias=output_bias))
    return nn.Sequential(*layers)


def _linear(inputs: int, outputs: int, network: Network, *, bias: bool = True) -> nn.Module:
    layer = nn.Linear(inputs, outputs, bias=bias)
    if network.initialisation != "default":
        _INITIALISE[network.initialisation](layer.weight, network)
        if bias:
            nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if network.spectral_norm else layer


class PerceptronGenerator(Generator):
    """(z (B, L), c (B, C)) -> transformed features (B, D)."""

    def __init__(self, network: GeneratorNetwork, conditions: int, features: int) -> None:
        super().__init__()
        self.latent = network.latent
        self.layers = perceptron(network.latent + conditions, features, network)

    def forward(self, z_BL: Tensor, c_BC: Tensor) -> Tensor:
        x_BI = torch.cat([z_BL, c_BC], dim=-1)
        if not (torch.is_grad_enabled() or torch.is_autocast_enabled(x_BI.device.type)):
            plain = Perceptron.of(self.layers)
            if plain is not None:
                return mlp_forward(plain, x_BI)
        return self.layers(x_BI).to(z_BL.dtype)


class PerceptronCritic(Critic):
    """(x (B, D), c (B, C)) -> (B, O): O = 1 for a score, more for an embedding."""

    def __init__(
        self, network: CriticNetwork, conditions: int, features: int, outputs: int, *, output_bias: bool = True
    ) -> None:
        super().__init__()
        self.layers = perceptron(
            features + conditions,
            outputs,
            network,
            output_bias=output_bias,
            dropout=network.dropout,
            group=network.minibatch_std,
        )
        self._dropouts = [layer for layer in self.layers if isinstance(layer, Dropout)]

    def score(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        return self.layers(torch.cat([x_BD, c_BC], dim=-1)).to(x_BD.dtype)

    def hidden(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        return self.layers[:-1](torch.cat([x_BD, c_BC], dim=-1)).to(x_BD.dtype)

    @property
    def dropped(self) -> int:
        return sum(layer.width for layer in self._dropouts)

    def draw(self, uniform_BU: Tensor) -> None:
        for layer, uniform_BW in zip(
            self._dropouts, uniform_BU.split([layer.width for layer in self._dropouts], -1), strict=True
        ):
            layer.draw(uniform_BW)
