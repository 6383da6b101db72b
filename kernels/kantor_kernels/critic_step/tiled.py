"""Backend `torch`: the closed form, in matrix products; any device. The formulas are in README.md.

Shapes: B rows, P points of the penalty, N = 2 B + P rows altogether (real, generated, between), I inputs, O outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kantor_kernels.critic_step.problem import CriticStep, Loss, Perceptron, Rows


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """As the reference."""
    with torch.no_grad():
        return _step(perceptron, rows, loss)


def _step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    x_NI = joined(rows, loss.kind)
    weights = [w.detach() for w in perceptron.weights]
    last, features = len(weights) - 1, rows.real.shape[1]
    between = slice(2 * len(rows.real), None)

    # Forward: h_0 = x, h_l = s(z_l); first and second derivatives of the activations beside it.
    h, slopes, bends = [x_NI], [], []
    for layer, (w, b) in enumerate(zip(weights, perceptron.biases, strict=True)):
        z = h[-1] @ w.mT if b is None else torch.addmm(b.detach(), h[-1], w.mT)
        if layer < last:
            z, slope, bend = activate(perceptron, z)
            slopes.append(slope)
            bends.append(None if bend is None else bend[between])
        h.append(z)

    # Reverse at the points between: s_l = df / dz_l, g = df / dx_hat.
    head = Head(rows, loss.kind, h[-1])
    s: list[Tensor] = [head.slope_PO] * (last + 1)
    c: list[Tensor] = []
    for layer in range(last, 0, -1):
        c.append(s[layer] @ weights[layer])
        s[layer - 1] = slopes[layer - 1][between] * c[-1]
    c.reverse()
    g_PD = s[0] @ weights[0][:, :features]
    penalty, norm_P, v_PD = penalise(g_PD, rows.penalty_coefficients, loss)

    # Tangent along v: t_0 = v, u_l = W_l t_(l-1), t_l = s'(z_l) u_l.
    t, u = [F.pad(v_PD, (0, x_NI.shape[1] - features))], []
    for layer, w in enumerate(weights):
        u.append(t[-1] @ w.mT)
        t.append(slopes[layer][between] * u[-1] if layer < last else u[-1])

    # Adjoint of everything: r_l = d loss / dz_l at all rows, and the gradients.
    distance, r = head.adjoint(t[-1])
    gradients: list[Tensor] = []
    for layer in range(last, -1, -1):
        if perceptron.biases[layer] is not None:
            gradients.append(r.sum(0))
        gradients.append(r.mT @ h[layer] + s[layer].mT @ t[layer])
        if layer > 0:
            r = (r @ weights[layer]) * slopes[layer - 1]
            bend = bends[layer - 1]
            if bend is not None:
                r[between] += bend * u[layer - 1] * c[layer - 1]
    return CriticStep(loss.weight * penalty - distance, distance, penalty, norm_P, tuple(reversed(gradients)))


def joined(rows: Rows, kind: str) -> Tensor:
    """(N, I): real rows, generated rows and the points between them, conditions beside the features."""
    real, fake, condition, step = rows.real, rows.fake, rows.conditions, 2 if kind == "energy" else 1
    eps = rows.eps[:, None]
    x_ND = torch.cat([real, fake, eps * real[::step] + (1 - eps) * fake[::step]])
    if condition is None:
        return x_ND
    return torch.cat([x_ND, torch.cat([condition, condition, condition[::step]])], 1)


def activate(perceptron: Perceptron, z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """s(z), s'(z) and s''(z), None where that is zero."""
    if perceptron.straight:
        slope = torch.where(z > 0, z.new_ones(()), perceptron.slope)
        return z * slope, slope, None
    if perceptron.activation == "tanh":
        h = z.tanh()
        slope = 1 - h * h
        return h, slope, -2 * h * slope
    sigmoid = z.sigmoid()
    if perceptron.activation == "silu":
        h = z * sigmoid
        slope = sigmoid + h - h * sigmoid
        return h, slope, (sigmoid - sigmoid * sigmoid) * (2 + z - 2 * h)
    # PyTorch's softplus is the identity above 20.
    above = z > 20
    return F.softplus(z), sigmoid.masked_fill(above, 1.0), (sigmoid - sigmoid * sigmoid).masked_fill(above, 0.0)


def penalise(g_PD: Tensor, coefficient_P: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """The penalty, |g| and v = weight dpenalty / dg, which is 0 where |g| = 0."""
    norm_P = g_PD.norm(dim=1)
    excess_P = norm_P - loss.target
    if loss.one_sided:
        excess_P = excess_P.clamp_min(0.0)
    share_P = coefficient_P * excess_P
    factor_P = torch.where(norm_P > 0, (2 * loss.weight) * share_P / norm_P, 0.0)
    return share_P @ excess_P, norm_P, factor_P[:, None] * g_PD


class _Apart(NamedTuple):
    """A difference of embeddings, by its length and direction; coincident points have no direction."""

    length: Tensor
    inverse: Tensor
    direction: Tensor

    @classmethod
    def of(cls, difference: Tensor) -> _Apart:
        length = difference.norm(dim=1, keepdim=True)
        inverse = torch.where(length > 0, 1 / length, 0.0)
        return cls(length, inverse, difference * inverse)

    def turn(self, t: Tensor) -> Tensor:
        """The derivative of the direction along t, (t - (u . t) u) / length."""
        return (t - (t * self.direction).sum(1, keepdim=True) * self.direction) * self.inverse


class Head:
    """From the critic's outputs (N, O) to the distance and its adjoint.

    Attributes:
        slope_PO: derivative of the penalised function f by the output, at the points between.
    """

    def __init__(self, rows: Rows, kind: str, h_NO: Tensor) -> None:
        self._rows, self._kind, self._b = rows, kind, len(rows.real)
        self._real, self._fake, self._between = h_NO.tensor_split([self._b, 2 * self._b])
        if kind == "wasserstein":
            self.slope_PO = torch.ones_like(self._between)
            return
        if kind == "energy":
            self._near, self._far = self._fake[1::2], self._real[1::2]
        else:
            self._near = self._fake.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            self._far = self._near.new_zeros(())
        self._to_near, self._to_far = _Apart.of(self._between - self._near), _Apart.of(self._between - self._far)
        self.slope_PO = self._to_near.direction - self._to_far.direction

    def adjoint(self, t_PO: Tensor) -> tuple[Tensor, Tensor]:
        """The distance, and the derivative of the loss by the outputs (N, O), from the tangent of the outputs."""
        a, b = self._rows.coefficients[:, None], self._rows.fake_coefficients[:, None]
        if self._kind == "wasserstein":
            distance = (a * self._real).sum() - (b * self._fake).sum()
            return distance, torch.cat([-a, b, torch.zeros_like(t_PO)])
        towards_near, towards_far = self._to_near.turn(t_PO), self._to_far.turn(t_PO)
        if self._kind == "surrogate":
            real, fake = _Apart.of(self._real - self._near), _Apart.of(self._fake - self._near)
            real_0, fake_0 = _Apart.of(self._real), _Apart.of(self._fake)
            distance = (a * (real.length - real_0.length)).sum() - (b * (fake.length - fake_0.length)).sum()
            by_partner = a * real.direction - b * fake.direction - towards_near
            by_fake = b * (fake.direction - fake_0.direction)
            by_fake += by_partner.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            return distance, torch.cat([-a * (real.direction - real_0.direction), by_fake, towards_near - towards_far])
        r1, r2, g1, g2 = self._real[0::2], self._real[1::2], self._fake[0::2], self._fake[1::2]
        r1g2, r2g1, g1g2, r1r2 = (_Apart.of(p - q) for p, q in ((r1, g2), (r2, g1), (g1, g2), (r1, r2)))
        distance = (a * (r1g2.length + r2g1.length - g1g2.length - r1r2.length)).sum()
        by_r1 = a * (r1r2.direction - r1g2.direction)
        by_r2 = -a * (r2g1.direction + r1r2.direction) + towards_far
        by_g1 = a * (r2g1.direction + g1g2.direction)
        by_g2 = a * (r1g2.direction - g1g2.direction) - towards_near
        pairs = [torch.stack(pair, 1).flatten(0, 1) for pair in ((by_r1, by_r2), (by_g1, by_g2))]
        return distance, torch.cat([*pairs, towards_near - towards_far])
