"""Perceptron critics take the closed form, with the numbers of the way that any other critic takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kantor import config
from kantor.config import CriticNetwork, Penalty
from kantor.losses import Batch, CriticLoss, make_objective
from kantor.losses.closed_form import perceptron_of
from kantor.models.networks.perceptron import PerceptronCritic

B, D, C = 8, 3, 2
PENALTY = Penalty(kind="lp", weight=3.0, target=0.7)
CENTRED = Penalty(kind="r1r2", weight=3.0)
OBJECTIVES = {
    "wgan_gp": config.WganGp(kind="wgan_gp", penalty=PENALTY),
    "cramer": config.Cramer(kind="cramer", embedding=4, penalty=PENALTY),
    "surrogate": config.Cramer(kind="cramer", critic="surrogate", embedding=4, penalty=PENALTY),
    "all pairs": config.Cramer(kind="cramer", pairs="all", embedding=4, penalty=PENALTY),
    "mmd": config.MmdMatching(kind="mmd", embedding=4, scales=[0.7, 2.0], penalty=PENALTY),
    "cramer, r1r2": config.Cramer(kind="cramer", embedding=4, penalty=CENTRED),
    "surrogate, r2": config.Cramer(
        kind="cramer", critic="surrogate", embedding=4, penalty=Penalty(kind="r2", weight=3.0)
    ),
    "mmd, r1r2": config.MmdMatching(kind="mmd", embedding=4, scales=[0.7, 2.0], penalty=CENTRED),
}


class Opaque(nn.Module):
    """A critic of which nothing is known."""

    def __init__(self, critic: PerceptronCritic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x_BD: Tensor, c_BC: Tensor) -> Tensor:
        return self.critic(x_BD, c_BC)


def hook(*_: object) -> None:
    """Of any kind."""


def make_critic(outputs: int = 4, conditions: int = C, **network: Any) -> PerceptronCritic:
    torch.manual_seed(2)
    return PerceptronCritic(
        CriticNetwork(width=16, depth=2, **network), conditions, D, outputs, output_bias=False
    ).double()


def make_batch(conditions: int = C, *, weighted: bool = True) -> Batch:
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    weights = torch.where(normal(B) > -0.8, 1.3, -0.4).double() if weighted else None
    eps = torch.rand(B, 1, generator=rng).double()
    return Batch(normal(B, D), 0.5 * normal(B, D) + 1, normal(B, conditions), weights, eps)


def in_closed_form(loss: CriticLoss) -> bool:
    return type(loss.loss.grad_fn).__name__ == "_KnownGradientsBackward"


@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
@pytest.mark.parametrize("conditions", [0, C], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "signed weights"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_ways_agree(name: str, weighted: bool, conditions: int, activation: str) -> None:
    objective = make_objective(OBJECTIVES[name])
    critic = make_critic(objective.outputs, conditions, activation=activation)
    batch = make_batch(conditions, weighted=weighted)
    found = []
    for way in (critic, Opaque(critic)):
        loss = objective.critic_loss(way, batch)
        assert in_closed_form(loss) == (way is critic)
        critic.zero_grad()
        loss.loss.backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()]
        found.append([loss.loss.detach(), loss.distance, loss.penalty, loss.gradient_norm, *gradients])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "network",
    [{"norm": "layer"}, {"residual": True}, {"spectral_norm": True}, {"dropout": 0.2}, {"minibatch_std": 2}],
    ids=str,
)
def test_other_critics_are_left_to_autograd(network: dict[str, Any]) -> None:
    assert perceptron_of(make_critic(**network)) is None


def test_so_is_what_changes_the_arithmetic() -> None:
    critic = make_critic()
    assert perceptron_of(critic) is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert perceptron_of(critic) is None
    with torch.no_grad():
        assert perceptron_of(critic) is None
    critic.layers[0].register_forward_hook(lambda *_: None)
    assert perceptron_of(critic) is None
    assert perceptron_of(make_critic().bfloat16()) is None
    critic = make_critic()
    critic.register_full_backward_hook(hook)
    assert perceptron_of(critic) is None


TAMPERED: dict[str, Callable[[PerceptronCritic], object]] = {
    "a hook on the critic": lambda critic: critic.register_forward_hook(hook),
    "a hook on its layers": lambda critic: critic.layers.register_forward_pre_hook(hook),
    "another forward": lambda critic: setattr(critic, "forward", critic.forward),
    "another score": lambda critic: setattr(critic, "score", critic.score),
    "another forward of a layer": lambda critic: setattr(critic.layers[0], "forward", critic.layers[0].forward),
    "a layer twice": lambda critic: critic.layers.__setitem__(4, critic.layers[2]),
    "a weight twice": lambda critic: setattr(critic.layers[4], "weight", critic.layers[2].weight),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_critic_that_has_to_be_called_is_called(how: str) -> None:
    """And its gradients are those of the critic that nothing is known of."""
    objective = make_objective(config.Cramer(kind="cramer", embedding=16, penalty=PENALTY))
    critic, batch = make_critic(16), make_batch()
    assert perceptron_of(critic) is not None
    TAMPERED[how](critic)
    assert perceptron_of(critic) is None
    gradients = []
    for way in (critic, Opaque(critic)):
        critic.zero_grad()
        objective.critic_loss(way, batch).loss.backward()
        gradients.append([p.grad for p in critic.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gradients_are_handed_out_once() -> None:
    objective = make_objective(OBJECTIVES["wgan_gp"])
    critic = make_critic(1)
    loss = objective.critic_loss(critic, make_batch()).loss
    (3 * loss).backward(retain_graph=True)
    weight = next(critic.parameters())
    assert weight.grad is not None
    tripled = weight.grad.clone()
    with pytest.raises(NotImplementedError, match="differentiable once"):
        loss.backward()
    critic.zero_grad()
    objective.critic_loss(critic, make_batch()).loss.backward()
    torch.testing.assert_close(tripled, 3.0 * weight.grad)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(objective.critic_loss(critic, make_batch()).loss, weight, create_graph=True)
