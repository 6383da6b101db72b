"""What a critic step is of: a perceptron, rows with their coefficients, and a loss, as small immutable values.

Shapes: B rows, D features, C conditions, O outputs, L layers, P points of the penalty (B, or B / 2 for `energy`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_module

ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.LeakyReLU: "leaky_relu",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Softplus: "softplus",
}
# Straight but for kinks: the second derivative of these activations is zero.
STRAIGHT = ("leaky_relu", "relu")
LOSSES = ("wasserstein", "energy", "surrogate")
# The penalty of a critic with one output, for `gradient_penalty`: of the rows, the points between alone are looked at.
PENALTY = "penalty"
# Any comparison of embeddings.
COMPARED = "compared"
_NO_PERCEPTRON = "it is no nn.Sequential of Linear layers with one kind of activation between them"


@dataclass(frozen=True)
class Perceptron:
    """h_l = s(h_(l-1) W_l^T + b_l) for all layers but the last, which is linear.

    Attributes:
        weights: L tensors (out, in).
        biases: L tensors (out,), or None where a layer has none.
        activation: "leaky_relu", "relu", "silu", "tanh" or "softplus" (beta 1, threshold 20), s of every layer.
        slope: of leaky_relu below zero, at least 0.

    Raises:
        ValueError: the shapes do not fit together, the tensors differ in dtype or device, one stands twice, or the
            activation is unknown.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    activation: str
    slope: float = 0.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS.values():
            raise ValueError(f"unknown activation {self.activation!r}; known: {', '.join(ACTIVATIONS.values())}")
        if self.slope < 0 or (self.slope and self.activation != "leaky_relu"):
            raise ValueError(f"slope must be at least 0, and 0 unless of leaky_relu, got {self.slope}")
        if not self.weights or len(self.weights) != len(self.biases):
            raise ValueError(f"got {len(self.weights)} weights and {len(self.biases)} biases")
        for below, above in pairwise(self.weights):
            if above.shape[1] != below.shape[0]:
                raise ValueError(f"a layer of {below.shape[0]} outputs is followed by one of {above.shape[1]} inputs")
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if bias is not None and bias.shape != weight.shape[:1]:
                raise ValueError(f"a weight {tuple(weight.shape)} has a bias {tuple(bias.shape)}")
        parameters = self.parameters()
        if len({(p.dtype, p.device) for p in parameters}) > 1:
            raise ValueError("its parameters are not all of one dtype on one device")
        if len({id(p) for p in parameters}) < len(parameters):
            raise ValueError("a layer or a parameter stands in it twice, whose gradients would have to be added up")

    @classmethod
    def of(cls, module: nn.Module) -> Perceptron | None:
        """The perceptron that a module is; None where `read` says why it is none."""
        found = read(module)
        return found if isinstance(found, Perceptron) else None

    def parameters(self) -> list[Tensor]:
        """Weights and biases in the order of `nn.Sequential.parameters()`."""
        pairs = zip(self.weights, self.biases, strict=True)
        return [p for pair in pairs for p in pair if p is not None]

    @property
    def straight(self) -> bool:
        """Whether the network is piecewise linear."""
        return self.activation in STRAIGHT

    @property
    def inputs(self) -> int:
        return self.weights[0].shape[1]

    @property
    def outputs(self) -> int:
        return self.weights[-1].shape[0]


class Rows(NamedTuple):
    """The rows of a step, detached. Coefficients are final: nothing is normalised any more.

    x_hat = eps real + (1 - eps) fake at every row, or for the energy loss at the even rows.
    """

    real: Tensor  # (B, D)
    fake: Tensor  # (B, D)
    conditions: Tensor | None  # (B, C)
    eps: Tensor  # (P,)
    coefficients: Tensor  # (B,), for the energy loss of pairs (B / 2,)
    fake_coefficients: Tensor  # (B,), for the energy loss unused
    penalty_coefficients: Tensor  # (P,)

    def each(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """The rows with a function of every tensor in its place."""
        conditions = None if self.conditions is None else function(self.conditions)
        return Rows(function(self.real), function(self.fake), conditions, *map(function, self[3:]))


class Comparison(Protocol):
    """How embeddings h of real and generated rows are compared, in operations that autograd differentiates once."""

    def compare(self, real_BO: Tensor, fake_BO: Tensor, between_BO: Tensor, /) -> tuple[Tensor, Tensor]:
        """What the critic maximises, and df / dh of the penalised f at the embeddings of the points between.

        With ranks that share a batch, both are this one's share, and may gather the rows of all.

        Args:
            real_BO, fake_BO, between_BO: (B, O).

        Returns:
            A scalar, and (B, O).
        """
        ...


@dataclass(frozen=True)
class Loss:
    """loss = -distance + weight sum_p c_p (|g_p| - target)^2; one-sided: max(0, |g_p| - target)^2.

    Attributes:
        kind: one of LOSSES, PENALTY, whose distance is 0, or COMPARED.
        compare: of COMPARED.
    """

    kind: str
    weight: float
    target: float
    one_sided: bool
    compare: Comparison | None = None


class CriticStep(NamedTuple):
    """The result of `mlp_critic_step`, detached.

    Attributes:
        loss: -distance + weight penalty.
        distance: what the critic maximises.
        penalty: sum_p c_p (|g_p| - target)^2.
        norms: (P,), |g|.
        gradients: of the loss by the critic's parameters, in the order of `parameters()`.
    """

    loss: Tensor
    distance: Tensor
    penalty: Tensor
    norms: Tensor
    gradients: tuple[Tensor, ...]


@dataclass(frozen=True)
class AdamState:
    """Adam (Kingma and Ba, arXiv:1412.6980, Algorithm 1) in the middle of its way; the moments are changed in place.

    Attributes:
        means, squares: first and second moments, like the parameters and in their order.
        steps: updates done before.
        learning_rate, betas, epsilon: alpha, (beta_1, beta_2) and epsilon of the paper.
    """

    means: list[Tensor]
    squares: list[Tensor]
    steps: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


class Descent(NamedTuple):
    """The result of `mlp_critic_descent`: `CriticStep`s of U updates, detached, without their gradients.

    Attributes:
        updates: done; fewer than U where the loss or the gradient of the next one is not finite.
        losses, distances, penalties: (U,).
        norms: (U, P), |g|.
        gradient_norms: (U,), of the gradient by all parameters.
    """

    updates: int
    losses: Tensor
    distances: Tensor
    penalties: Tensor
    norms: Tensor
    gradient_norms: Tensor


def read(module: nn.Module) -> Perceptron | str:
    """The perceptron that an nn.Sequential of Linear layers with one kind of activation between them is, or why not.

    It is none with another layer or another order, with anything that `why_not_bypass` names, with a parametrisation,
    with dtypes or devices that differ, with parameters that stand twice or are neither float32 nor float64.
    """
    if type(module) is not nn.Sequential:
        return _NO_PERCEPTRON
    children = list(module)
    layers = [layer for layer in children[0::2] if type(layer) is nn.Linear]
    if len(layers) != (len(children) + 1) / 2:
        return _NO_PERCEPTRON
    described = {_described(activation) for activation in children[1::2]} or {("relu", 0.0)}
    found = described.pop()
    if found is None or described:
        return _NO_PERCEPTRON
    bypassed = why_not_bypass(module, *children)
    if bypassed is not None:
        return bypassed
    weights, biases = tuple(layer.weight for layer in layers), tuple(layer.bias for layer in layers)
    if weights[0].dtype not in (torch.float32, torch.float64):
        return "its parameters are neither float32 nor float64"
    try:
        return Perceptron(weights, biases, *found)
    except ValueError as error:
        return str(error)


def why_not_bypass(*modules: nn.Module) -> str | None:
    """Why modules cannot be computed without calling them: a hook or a `forward` of their own; None where they can."""
    if module_module._has_any_global_hook():
        return "hooks of all modules are registered, which the closed form does not call"
    for module in modules:
        hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
        if any(hooks):
            return f"a hook is registered on its {type(module).__name__}, which the closed form does not call"
        if "forward" in vars(module):
            return f"its {type(module).__name__} has a forward of its own, which the closed form does not call"
    return None


def _described(module: nn.Module) -> tuple[str, float] | None:
    name = ACTIVATIONS.get(type(module))
    if isinstance(module, nn.LeakyReLU):
        return ("leaky_relu", float(module.negative_slope)) if module.negative_slope >= 0 else None
    if isinstance(module, nn.Softplus) and (module.beta, module.threshold) != (1, 20):
        return None
    return None if name is None else (name, 0.0)
