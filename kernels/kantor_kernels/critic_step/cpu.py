"""Backend `cpu`: as `tiled.py`, with everything between the matrix products compiled by Numba on first use.

A bias and a leaky ReLU are one pass over the values, a slope and the bias's gradient another one, and all that concerns
single rows one call. Activations that bend are left to PyTorch, whose exponentials are faster. Shapes: B rows of a
block, P points of the penalty, N = 2 B + P, D features, O outputs.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from kantor_kernels.critic_step.problem import CriticStep, Loss, Perceptron, Rows
from kantor_kernels.critic_step.tiled import Work, by_blocks

_KINDS = {"wasserstein": 0, "energy": 1, "surrogate": 2}
# Rows that are summed by themselves first: a long sum in float32 loses digits.
_SUMMED = 32
# Not "nnan" or "ninf": a NaN must come out as a NaN.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """As the reference."""
    return by_blocks(perceptron, rows, loss, _Compiled)


class _Compiled(Work):
    """`Work` with compiled passes over its buffers."""

    def __init__(self, perceptron: Perceptron, b: int, features: int, kind: str) -> None:
        super().__init__(perceptron, b, features, kind)
        self.kind, self.b = _KINDS[kind], b
        self.straight, self.last = perceptron.straight, len(perceptron.weights) - 1
        self.x, self.g, self.v = self.values[0].numpy(), self.g_PD.numpy(), self.t[0].numpy()
        self.views = {
            name: [part.numpy() for part in parts]
            for name, parts in (("h", self.h), ("r", self.r), ("s", self.s), ("t", self.t), ("u", self.u))
        }
        self.between_views = [h[2 * b :] for h in self.views["h"]]
        self.sum_views = [total.numpy() for total in self.by_bias]

    def load(self, rows: Rows) -> None:
        conditions = rows.real[:, :0] if rows.conditions is None else rows.conditions
        _load(self.x, _array(rows.real), _array(rows.fake), _array(conditions), _array(rows.eps), self.step_of_points)

    def forward(self, perceptron: Perceptron, layer: int) -> None:
        bias = perceptron.biases[layer]
        if not self.straight or layer == self.last or bias is None:
            super().forward(perceptron, layer)
            return
        torch.mm(self.h[layer], perceptron.weights[layer].mT, out=self.h[layer + 1])
        _activate(self.views["h"][layer + 1], _array(bias.detach()), perceptron.slope)

    def start(self) -> None:
        _start(self.views["h"][-1], self.views["s"][-1], self.kind, self.b)

    def finish(self, rows: Rows, total_3: Tensor) -> None:
        a, b = _array(rows.coefficients), _array(rows.fake_coefficients)
        h, r, t = self.views["h"][-1], self.views["r"][-1], self.views["t"][-1]
        _finish(h, r, t, a, b, self.kind, self.merged, self.sum_views[-1], total_3.numpy())

    def reverse_between(self, perceptron: Perceptron) -> None:
        if not self.straight:
            super().reverse_between(perceptron)
            return
        for layer in range(self.last - 1, -1, -1):
            torch.mm(self.s[layer + 1], perceptron.weights[layer + 1], out=self.s[layer])
            s = self.views["s"][layer]
            _slope(s, self.between_views[layer + 1], perceptron.slope, s)

    def reverse_all(self, perceptron: Perceptron) -> None:
        if not self.straight:
            super().reverse_all(perceptron)
            return
        for layer in range(self.last - 1, -1, -1):
            torch.mm(self.r[layer + 1], perceptron.weights[layer + 1], out=self.r[layer])
            rows = len(self.biased[layer])
            r, h = self.views["r"][layer], self.views["h"][layer + 1]
            _slope_and_sum(r, h, perceptron.slope, self.sum_views[layer], rows)

    def tangent(self, perceptron: Perceptron, layer: int) -> None:
        if not self.straight:
            super().tangent(perceptron, layer)
            return
        h, t = self.between_views[layer + 1], self.views["t"][layer + 1]
        _slope(self.views["u"][layer], h, perceptron.slope, t)

    def sum_biased(self) -> None:
        # Straight layers are summed where r is written.
        if not self.straight:
            super().sum_biased()

    def penalise(self, coefficient_P: Tensor, loss: Loss, norm_P: Tensor, total_3: Tensor) -> None:
        coefficients, norms, total = _array(coefficient_P), norm_P.numpy(), total_3.numpy()
        _penalise(self.g, coefficients, loss.weight, loss.target, loss.one_sided, norms, self.v, total)


def _array(tensor: Tensor) -> Any:
    return tensor.contiguous().numpy()


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, fastmath=_FASTMATH, error_model="numpy")(function)


@_compiled
def _load(x: Any, real: Any, fake: Any, conditions: Any, eps: Any, step: int) -> None:
    b, d = real.shape
    for i in range(b):
        for j in range(d):
            x[i, j], x[b + i, j] = real[i, j], fake[i, j]
        for j in range(conditions.shape[1]):
            x[i, d + j] = x[b + i, d + j] = conditions[i, j]
    for p in range(len(eps)):
        i = step * p
        for j in range(d):
            x[2 * b + p, j] = fake[i, j] + eps[p] * (real[i, j] - fake[i, j])
        for j in range(conditions.shape[1]):
            x[2 * b + p, d + j] = conditions[i, j]


@_compiled
def _activate(z: Any, bias: Any, slope: float) -> None:
    """z + bias, and times the slope where that is below 0."""
    below = z.dtype.type(slope)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            value = z[i, j] + bias[j]
            z[i, j] = value if value > 0 else value * below


@_compiled
def _slope(by_h: Any, h: Any, slope: float, out: Any) -> None:
    below = h.dtype.type(slope)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            out[i, j] = by_h[i, j] if h[i, j] > 0 else by_h[i, j] * below


@_compiled
def _slope_and_sum(r: Any, h: Any, slope: float, total: Any, rows: int) -> None:
    """`_slope` in place, and the sum over the first rows."""
    below = h.dtype.type(slope)
    total[:] = 0
    part = np.empty_like(total)
    for first in range(0, rows, _SUMMED):
        part[:] = 0
        for i in range(first, min(first + _SUMMED, rows)):
            for j in range(h.shape[1]):
                value = r[i, j] if h[i, j] > 0 else r[i, j] * below
                r[i, j] = value
                part[j] += value
        total += part
    for i in range(rows, h.shape[0]):
        for j in range(h.shape[1]):
            r[i, j] = r[i, j] if h[i, j] > 0 else r[i, j] * below


@_compiled
def _penalise(
    g: Any, coefficients: Any, weight: float, target: float, one_sided: bool, norms: Any, v: Any, total: Any
) -> None:
    penalty = 0.0
    for p in range(len(g)):
        square = 0.0
        for j in range(g.shape[1]):
            square += g[p, j] * g[p, j]
        norm = np.sqrt(square)
        excess = norm - target
        if one_sided and excess < 0:
            excess = 0.0
        share = coefficients[p] * excess
        penalty += share * excess
        factor = 2 * weight * share / norm if norm > 0 else 0.0
        norms[p] = norm
        for j in range(g.shape[1]):
            v[p, j] = factor * g[p, j]
        v[p, g.shape[1] :] = 0
    total[0] += weight * penalty
    total[2] = penalty


@_compiled
def _start(h: Any, s: Any, kind: int, b: int) -> None:
    """df / dh at the points between: directions from h(x_hat) to what it is compared with, near minus far."""
    if kind == 0:
        s[:] = 1
        return
    for p in range(len(s)):
        i, near, far = 2 * b + p, *_compared(p, kind, b)
        s[p] = 0
        _pull(h, s, i, near, 1.0, p, -1)
        _pull(h, s, i, far, -1.0, p, -1)


@_compiled
def _finish(h: Any, r: Any, t: Any, a: Any, b: Any, kind: int, merged: bool, sums: Any, total: Any) -> None:
    """The distance, r of the last layer, and its sum over rows."""
    rows, distance = 0, 0.0
    if kind == 0:
        rows = len(a)
        for i in range(rows):
            distance += a[i] * h[i, 0] - b[i] * h[rows + i, 0]
            r[i, 0], r[rows + i, 0] = -a[i], b[i]
        if not merged:
            r[2 * rows :] = 0
    else:
        r[:] = 0
        rows = 2 * len(t) if kind == 1 else len(t)
        for p in range(len(t)):
            if kind == 1:
                r1, r2, g1, g2 = 2 * p, 2 * p + 1, rows + 2 * p, rows + 2 * p + 1
                distance += _pull(h, r, r1, g2, -a[p], r1, g2) + _pull(h, r, r2, g1, -a[p], r2, g1)
                distance += _pull(h, r, g1, g2, a[p], g1, g2) + _pull(h, r, r1, r2, a[p], r1, r2)
            else:
                partner = rows + (p ^ 1)
                distance += _pull(h, r, p, partner, -a[p], p, partner) + _pull(h, r, p, -1, a[p], p, -1)
                distance += _pull(h, r, rows + p, partner, b[p], rows + p, partner)
                distance += _pull(h, r, rows + p, -1, -b[p], rows + p, -1)
            near, far = _compared(p, kind, rows)
            _turn(h, r, t[p], 2 * rows + p, near, 1.0)
            _turn(h, r, t[p], 2 * rows + p, far, -1.0)
    total[0] -= distance
    total[1] = distance
    sums[:] = 0
    for i in range(2 * rows if merged else len(r)):
        sums += r[i]


@_compiled
def _compared(p: int, kind: int, b: int) -> tuple[int, int]:
    """The rows whose embeddings f compares that of a point between with; -1 is the origin."""
    return (b + 2 * p + 1, 2 * p + 1) if kind == 1 else (b + (p ^ 1), -1)


@_compiled
def _pull(h: Any, r: Any, i: int, j: int, coefficient: float, to_i: int, to_j: int) -> float:
    """-coefficient |h_i - h_j|; adds the derivative of coefficient |h_i - h_j| to two rows of r."""
    square = 0.0
    for k in range(h.shape[1]):
        difference = h[i, k] - h[j, k] if j >= 0 else h[i, k]
        square += difference * difference
    if square == 0:
        return 0.0
    length = np.sqrt(square)
    factor = h.dtype.type(coefficient / length)
    for k in range(h.shape[1]):
        difference = h[i, k] - h[j, k] if j >= 0 else h[i, k]
        r[to_i, k] += factor * difference
        if to_j >= 0:
            r[to_j, k] -= factor * difference
    return -coefficient * length


@_compiled
def _turn(h: Any, r: Any, t: Any, i: int, j: int, sign: float) -> None:
    """Adds the derivative along t of the direction of h_i - h_j, times the sign, to row i of r; takes it from row j."""
    square, along = 0.0, 0.0
    for k in range(h.shape[1]):
        difference = h[i, k] - h[j, k] if j >= 0 else h[i, k]
        square += difference * difference
        along += difference * t[k]
    if square == 0:
        return
    factor = h.dtype.type(sign / np.sqrt(square))
    share = h.dtype.type(along / square)
    for k in range(h.shape[1]):
        difference = h[i, k] - h[j, k] if j >= 0 else h[i, k]
        turn = factor * (t[k] - share * difference)
        r[i, k] += turn
        if j >= 0:
            r[j, k] -= turn
