"""Generator and critic: multilayer perceptrons called as `generator(z, c)` and `critic(x, c)`.

Shapes: B rows, C conditions (may be zero), L latent dimensions, D features, O outputs of the critic, W units of a
hidden layer, U units with dropout of all layers together.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from kantor.config import CriticNetwork, GeneratorNetwork, Network
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


class Residual(nn.Sequential):
    """x + layers(x) (He et al., arXiv:1512.03385)."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class Dropout(nn.Module):
    """Dropout whose mask belongs to the rows of an update, not to the moment of the call.

    A row has one mask in all passes of an update, as real event, as generated one and between them, so that the
    gradient penalty meets one function, and any number of ranks the same one.
    """

    def __init__(self, probability: float, width: int) -> None:
        super().__init__()
        self.probability, self.width = probability, width
        self._mask_BW: Tensor | None = None

    def draw(self, uniform_BW: Tensor) -> None:
        """The mask of the next update from uniform numbers in [0, 1)."""
        self._mask_BW = (uniform_BW >= self.probability) / (1 - self.probability)

    def forward(self, x_NW: Tensor) -> Tensor:
        """N is B, a multiple of it (real and generated rows), or half of it (the first of each pair)."""
        if not self.training:
            return x_NW
        if self._mask_BW is None:
            raise RuntimeError("no dropout mask has been drawn for this update")
        rows, drawn = len(x_NW), len(self._mask_BW)
        mask_NW = self._mask_BW[:: drawn // rows] if rows < drawn else self._mask_BW.repeat(rows // drawn, 1)
        return x_NW * mask_NW.to(x_NW.dtype)


class GroupDeviation(nn.Module):
    """Appends the standard deviation within a row's group, averaged over the W units: (B, W) -> (B, W + 1).

    Minibatch standard deviation (Karras et al., arXiv:1710.10196, section 3) in groups of consecutive rows, so that
    real rows never meet generated ones, nor one rank's rows another's.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x_BW: Tensor) -> Tensor:
        variance_GW = x_BW.unflatten(0, (-1, self.group)).var(1, correction=0)
        # The root's slope is infinite where all rows of a group agree.
        deviation_G = (variance_GW + 1e-8).sqrt().mean(-1)
        return torch.cat([x_BW, deviation_G.repeat_interleave(self.group).unsqueeze(-1)], dim=-1)


class Generator(nn.Module):
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


class Critic(nn.Module):
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

    def forward(self, x_BD: Tensor, c_BC: Tensor, loss: Tensor | None = None) -> Tensor:
        """A `loss` is passed on instead, so that data parallelism takes its gradients for those of this pass."""
        return self.layers(torch.cat([x_BD, c_BC], dim=-1)).to(x_BD.dtype) if loss is None else loss

    def hidden(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        """What the last layer is given, (B, W)."""
        return self.layers[:-1](torch.cat([x_BD, c_BC], dim=-1)).to(x_BD.dtype)

    @property
    def dropped(self) -> int:
        """U, how many numbers a row's dropout masks are drawn from."""
        return sum(layer.width for layer in self._dropouts)

    def draw(self, uniform_BU: Tensor) -> None:
        """The dropout masks of the next update from uniform numbers."""
        for layer, uniform_BW in zip(
            self._dropouts, uniform_BU.split([layer.width for layer in self._dropouts], -1), strict=True
        ):
            layer.draw(uniform_BW)


class Joint(Critic):
    """The critic of an objective that has none: (x (B, D), c (B, C)) -> (B, D + C), the events themselves.

    Conditions stand beside the features, so that their joint distribution is what is compared.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layers = nn.Sequential()
        self._dropouts = []
