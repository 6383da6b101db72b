"""The definition of the critic losses, differentiated by autograd, the penalty by double backward.

Sources: Gulrajani et al., arXiv:1704.00028 (Wasserstein); Bellemare et al., arXiv:1705.10743 (Cramér, surrogate).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor

from kantor_kernels.critic_step.problem import AdamState, CriticStep, Descent, Loss, Perceptron, Rows

_SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "tanh": torch.tanh, "softplus": F.softplus}


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """Loss, distance, penalty, gradient norms and the gradients of the loss."""
    parameters = [p.detach().requires_grad_() for p in perceptron.parameters()]

    def h(x: Tensor, conditions: Tensor | None) -> Tensor:
        return forward(perceptron, parameters, x if conditions is None else torch.cat([x, conditions], 1))

    with torch.enable_grad():
        step = 2 if loss.kind == "energy" else 1
        conditions = rows.conditions if rows.conditions is None else rows.conditions[::step]
        eps = rows.eps[:, None]
        x_hat = (eps * rows.real[::step] + (1 - eps) * rows.fake[::step]).requires_grad_()
        embeddings = h(rows.real, rows.conditions), h(rows.fake, rows.conditions), h(x_hat, conditions)
        if loss.compare is not None:
            distance, slope_BO = loss.compare.compare(*embeddings)
            # f itself is not known, but its slope by x_hat: that of slope . h with the slope held fixed.
            (g_PD,) = torch.autograd.grad(embeddings[2], x_hat, slope_BO, create_graph=True)
        else:
            distance, f_P = _LOSSES[loss.kind](rows, *embeddings)
            (g_PD,) = torch.autograd.grad(f_P.sum(), x_hat, create_graph=True)
        norm_P = length(g_PD)
        excess_P = norm_P - loss.target
        if loss.one_sided:
            excess_P = excess_P.clamp_min(0.0)
        penalty = (rows.penalty_coefficients * excess_P.square()).sum()
        total = -distance + loss.weight * penalty
        gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return CriticStep(total.detach(), distance.detach(), penalty.detach(), norm_P.detach(), gradients)


@torch.no_grad()
def descend(perceptron: Perceptron, rows: Rows, loss: Loss, adam: AdamState) -> Descent:
    """Updates one after the other; `rows` are those of all, (U, ...) each."""
    steps: list[CriticStep] = []
    norms: list[Tensor] = []
    beta1, beta2 = adam.betas
    for update in range(len(rows.real)):
        step = critic_step(perceptron, rows.each(itemgetter(update)), loss)
        norm = torch.stack([g.norm() for g in step.gradients]).norm()
        steps.append(step)
        norms.append(norm)
        if not bool(torch.isfinite(norm) & torch.isfinite(step.loss)):
            break
        t = adam.steps + update + 1
        for p, g, m, v in zip(perceptron.parameters(), step.gradients, adam.means, adam.squares, strict=True):
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            root = v.sqrt() / (1 - beta2**t) ** 0.5 + adam.epsilon
            p.addcdiv_(m, root, value=-adam.learning_rate / (1 - beta1**t))
    else:
        return _descent(len(steps), steps, norms)
    return _descent(len(steps) - 1, steps, norms)


def _descent(updates: int, steps: list[CriticStep], norms: list[Tensor]) -> Descent:
    losses, distances, penalties, norms_P, _ = zip(*steps, strict=True)
    columns = map(torch.stack, (losses, distances, penalties, norms_P, norms))
    return Descent(updates, *columns)


def _wasserstein(rows: Rows, real_BO: Tensor, fake_BO: Tensor, between_PO: Tensor) -> tuple[Tensor, Tensor]:
    return rows.coefficients @ real_BO[:, 0] - rows.fake_coefficients @ fake_BO[:, 0], between_PO[:, 0]


def _energy(rows: Rows, real_BO: Tensor, fake_BO: Tensor, between_PO: Tensor) -> tuple[Tensor, Tensor]:
    r1, r2, g1, g2 = real_BO[0::2], real_BO[1::2], fake_BO[0::2], fake_BO[1::2]
    terms_P = length(r1 - g2) + length(r2 - g1) - length(g1 - g2) - length(r1 - r2)
    return rows.coefficients @ terms_P, length(between_PO - g2) - length(between_PO - r2)


def _surrogate(rows: Rows, real_BO: Tensor, fake_BO: Tensor, between_PO: Tensor) -> tuple[Tensor, Tensor]:
    partner_BO = fake_BO.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    real_B, fake_B, between_B = (length(h - partner_BO) - length(h) for h in (real_BO, fake_BO, between_PO))
    return rows.coefficients @ real_B - rows.fake_coefficients @ fake_B, between_B


_LOSSES = {"wasserstein": _wasserstein, "energy": _energy, "surrogate": _surrogate}


def forward(perceptron: Perceptron, parameters: list[Tensor], x: Tensor) -> Tensor:
    """The perceptron with other parameters than its own."""
    remaining = iter(parameters)
    last = len(perceptron.weights) - 1
    for layer, bias in enumerate(perceptron.biases):
        x = F.linear(x, next(remaining), None if bias is None else next(remaining))
        if layer < last:
            x = F.leaky_relu(x, perceptron.slope) if perceptron.straight else _SMOOTH[perceptron.activation](x)
    return x


def values(perceptron: Perceptron, x: Tensor) -> Tensor:
    """What the perceptron gives for each row, (N, O)."""
    return forward(perceptron, perceptron.parameters(), x)


def length(v: Tensor) -> Tensor:
    """|v| per row, with all derivatives 0 where v = 0."""
    square = v.square().sum(-1)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
