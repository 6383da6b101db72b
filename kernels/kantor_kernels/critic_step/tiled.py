"""Backend `torch`: the closed form in matrix products; any device. The formulas and their letters are in README.md.

On the CPU a block of the batch at a time, small enough for its values to stay in the cache, in buffers that the next
step uses again. Shapes: B rows of a block, P points of the penalty, D features, O outputs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kantor_kernels.critic_step.problem import COMPARED, PENALTY, CriticStep, Loss, Perceptron, Rows

# Rows of the batch in a block on the CPU, even.
BLOCK = 512
# Sets of buffers that a thread holds.
HELD = 4

_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """As the reference."""
    return by_blocks(perceptron, rows, loss, Buffers)


def by_blocks(perceptron: Perceptron, rows: Rows, loss: Loss, kind_of_buffers: type[Buffers]) -> CriticStep:
    """The step, one block of the batch after the other."""
    with torch.no_grad():
        by_weights = [torch.empty_like(w) for w in perceptron.weights]
        by_biases = torch.zeros(())
        norm_P = torch.empty_like(rows.eps)
        blocks = _blocks(rows, loss.kind)
        total_K3 = rows.eps.new_zeros(len(blocks), 3)
        for index, (block, points) in enumerate(blocks):
            buffers = _buffers_for(kind_of_buffers, perceptron, len(block.real), block.real.shape[1], loss.kind)
            buffers.step(perceptron, block, loss, norm_P[points], total_K3[index])
            buffers.collect(by_weights, add=index > 0)
            by_biases = buffers.by_biases.clone() if index == 0 else by_biases.add_(buffers.by_biases)
        gradients: list[Tensor] = []
        parts = by_biases.split_with_sizes([len(w) for w in by_weights])
        for bias, by_weight, by_bias in zip(perceptron.biases, by_weights, parts, strict=True):
            gradients += (by_weight,) if bias is None else (by_weight, by_bias)
        total, distance, penalty = (total_K3[0] if len(blocks) == 1 else total_K3.sum(0)).unbind()
        return CriticStep(total, distance, penalty, norm_P, tuple(gradients))


def _blocks(rows: Rows, kind: str) -> list[tuple[Rows, slice]]:
    b, step = len(rows.real), 2 if kind == "energy" else 1
    if rows.real.device.type != "cpu" or b <= BLOCK or kind == COMPARED:
        return [(rows, slice(None))]
    found = []
    for start in range(0, b, BLOCK):
        mine, points = slice(start, start + BLOCK), slice(start // step, (start + BLOCK) // step)
        conditions = None if rows.conditions is None else rows.conditions[mine]
        found.append((Rows(rows.real[mine], rows.fake[mine], conditions, *(v[points] for v in rows[3:])), points))
    return found


T = TypeVar("T")
_local = threading.local()


def _buffers_for(kind_of_buffers: type[Buffers], perceptron: Perceptron, b: int, features: int, kind: str) -> Buffers:
    """Buffers for this shape: on the CPU those of the last such step; elsewhere allocator or compiler keep memory."""
    first = perceptron.weights[0]
    if first.device.type != "cpu" or torch.compiler.is_compiling():
        return kind_of_buffers(perceptron, b, features, kind)
    shapes = tuple(w.shape for w in perceptron.weights)
    key = (kind_of_buffers, shapes, b, features, kind, perceptron.straight, first.dtype)
    return reused(key, lambda: kind_of_buffers(perceptron, b, features, kind))


def reused(key: object, make: Callable[[], T]) -> T:
    """What `make` makes, or what it made for this key at one of this thread's latest steps."""
    found: OrderedDict[object, Any] = _local.__dict__.setdefault("buffers", OrderedDict())
    if key not in found:
        with torch.inference_mode(False):  # tensors of inference mode cannot be written to outside of it
            found[key] = make()
        if len(found) > HELD:
            found.popitem(last=False)
    found.move_to_end(key)
    return found[key]


class Buffers:
    """The buffers of a block, and the steps of the closed form on them.

    The rows of `values` and `cotangents` are the real and generated ones, the points between, and the tangents there.
    r, the adjoint, has all rows but the last, and s, the reverse of f, those of the tangents, so that the gradient of a
    weight is one product of cotangents and values. Of a piecewise linear critic under the Wasserstein loss the adjoint
    of the points between is zero: the tangents take their place, and reverse and adjoint are one (`merged`).
    """

    def __init__(self, perceptron: Perceptron, b: int, features: int, kind: str) -> None:
        self.merged = kind in ("wasserstein", PENALTY) and perceptron.straight
        self.step_of_points = 2 if kind == "energy" else 1
        points = b // self.step_of_points
        b = self.b = 0 if kind == PENALTY else b
        rows = 2 * b + points
        real, fake, between, everything = slice(b), slice(b, 2 * b), slice(2 * b, rows), slice(rows)
        tangent = between if self.merged else slice(rows, rows + points)
        widths = [perceptron.inputs, *(len(w) for w in perceptron.weights)]
        hidden = widths[1:-1]

        def buffers(rows: int, widths: Sequence[int]) -> list[Tensor]:
            return [perceptron.weights[0].new_empty(rows, width) for width in widths]

        self.values, self.cotangents = (buffers(tangent.stop, widths) for widths in (widths, widths[1:]))
        self.h, self.t = ([value[part] for value in self.values] for part in (everything, tangent))
        self.r, self.s = ([cotangent[part] for cotangent in self.cotangents] for part in (everything, tangent))
        self.biased = [r[: 2 * b] if self.merged else r for r in self.r]
        self.by_biases = perceptron.weights[0].new_empty(sum(widths[1:]))
        self.by_bias = self.by_biases.split(widths[1:])
        self.inputs = [self.values[0][part, :features] for part in (real, fake, between, tangent)]
        self.conditions = [self.values[0][part, features:] for part in (real, fake, between, tangent)]
        (self.g_PD,) = buffers(points, [features])
        outputs, adjoints = ([v[part] for part in (real, fake, between)] for v in (self.values[-1], self.r[-1]))
        self.head = _HEADS[kind](outputs, adjoints, self.s[-1])

        # What s'(z) is computed from: the value itself where the activation is straight, else a number of its own.
        self.slopes = self.h[1:-1] if perceptron.straight else buffers(rows, hidden)
        self.slopes_between = [slope[between] for slope in self.slopes]
        # Reverse and tangent before the activation, of all layers where it bends.
        if perceptron.straight:
            scratch = perceptron.weights[0].new_empty(points * max(hidden, default=0))
            self.u = [scratch[: points * width].view(points, width) for width in hidden]
            self.c = self.s[:-1]
        else:
            self.u, self.c, self.bends = (buffers(points, hidden) for _ in range(3))
            self.h_between, self.r_between = ([v[between] for v in part] for part in (self.h, self.r))

    def step(self, perceptron: Perceptron, rows: Rows, loss: Loss, norm_P: Tensor, total_3: Tensor) -> None:
        """Write norms, and loss, distance and penalty of the block; leave values and cotangents for `collect`."""
        weights, last = perceptron.weights, len(perceptron.weights) - 1
        self.load(rows)

        # Forward at all rows: z_l = W_l h_(l-1) + b_l, h_l = s(z_l).
        for layer in range(last + 1):
            self.forward(perceptron, layer)

        # Reverse at the points between: s_l = df / dz_l, and g = df / dx_hat.
        self.start(loss)
        if self.merged:
            self.finish(rows, total_3)
            self.reverse_all(perceptron)
        else:
            self.reverse_between(perceptron)
        torch.mm(self.s[0], weights[0][:, : self.g_PD.shape[1]], out=self.g_PD)
        self.penalise(rows.penalty_coefficients, loss, norm_P, total_3)

        # Tangent along v: u_l = W_l t_(l-1), t_l = s'(z_l) u_l.
        for layer in range(last):
            torch.mm(self.t[layer], weights[layer].mT, out=self.u[layer])
            self.tangent(perceptron, layer)

        # Adjoint at all rows: r_l = dloss / dz_l.
        if not self.merged:
            torch.mm(self.t[last], weights[last].mT, out=self.t[last + 1])
            self.finish(rows, total_3)
            self.reverse_all(perceptron)

    def collect(self, by_weights: Sequence[Tensor], *, add: bool) -> None:
        """Write or add dW_l = r_l h_(l-1) + s_l t_(l-1), and write db_l = r_l, summed over rows."""
        for by_weight, cotangent, value in zip(by_weights, self.cotangents, self.values, strict=False):
            if add:
                by_weight.addmm_(cotangent.mT, value)
            else:
                torch.mm(cotangent.mT, value, out=by_weight)
        self.sum_biased()

    def load(self, rows: Rows) -> None:
        """Write the rows and the points between them."""
        real, fake, between, _ = self.inputs
        step = self.step_of_points
        if self.b:
            real.copy_(rows.real)
            fake.copy_(rows.fake)
        torch.lerp(rows.fake[::step], rows.real[::step], rows.eps[:, None], out=between)
        if rows.conditions is not None:
            real, fake, between, _ = self.conditions
            if self.b:
                real.copy_(rows.conditions)
                fake.copy_(rows.conditions)
            between.copy_(rows.conditions[::step])

    def forward(self, perceptron: Perceptron, layer: int) -> None:
        """From the values below to those of a layer, and what the derivatives of its activation need."""
        w, b, z = perceptron.weights[layer], perceptron.biases[layer], self.h[layer + 1]
        if b is None:
            torch.mm(self.h[layer], w.mT, out=z)
        else:
            torch.addmm(b, self.h[layer], w.mT, out=z)
        if layer == len(perceptron.weights) - 1:
            return
        if perceptron.straight:
            F.leaky_relu_(z, perceptron.slope)
        else:
            self._bend(perceptron.activation, layer, z)

    def _bend(self, activation: str, layer: int, z: Tensor) -> None:
        """s(z) in place of z, s'(z), and s''(z) at the points between."""
        slope, bend, z_between = self.slopes[layer], self.bends[layer], self.h_between[layer + 1]
        slope_between = self.slopes_between[layer]
        if activation == "tanh":
            torch.tanh(z, out=z)
            torch.addcmul(z.new_ones(()), z, z, value=-1, out=slope)
            torch.mul(z_between, slope_between, out=bend).mul_(-2)
            return
        sigmoid = torch.sigmoid(z, out=slope)
        torch.addcmul(slope_between, slope_between, slope_between, value=-1, out=bend)
        if activation == "silu":
            bend.mul_(z_between.mul(slope_between).mul_(-2).add_(z_between).add_(2))
            h = z.mul_(sigmoid)
            torch.addcmul(sigmoid + h, h, sigmoid, value=-1, out=slope)
            return
        # PyTorch's softplus is the identity above 20.
        slope.masked_fill_(z > 20, 1.0)
        bend.masked_fill_(z_between > 20, 0.0)
        z.copy_(F.softplus(z))

    def start(self, loss: Loss) -> None:
        """Write s of the last layer."""
        self.head.start(loss)

    def finish(self, rows: Rows, total_3: Tensor) -> None:
        """Write the distance, its part of the loss and r of the last layer."""
        distance = self.head.finish(rows, None if self.merged else self.t[-1])
        total_3[0] -= distance
        total_3[1] = distance

    def reverse_between(self, perceptron: Perceptron) -> None:
        """s from its last layer: c_l = W_(l+1)^T s_(l+1), s_l = s'(z_l) c_l."""
        for layer in range(len(self.slopes) - 1, -1, -1):
            torch.mm(self.s[layer + 1], perceptron.weights[layer + 1], out=self.c[layer])
            _times_slope(perceptron, self.c[layer], self.slopes_between[layer], self.s[layer])

    def reverse_all(self, perceptron: Perceptron) -> None:
        """r from its last layer: r_l = s'(z_l) W_(l+1)^T r_(l+1), and + s''(z_l) u_l c_l at the points between."""
        for layer in range(len(self.slopes) - 1, -1, -1):
            torch.mm(self.r[layer + 1], perceptron.weights[layer + 1], out=self.r[layer])
            _times_slope(perceptron, self.r[layer], self.slopes[layer], self.r[layer])
            if not perceptron.straight:
                self.r_between[layer].addcmul_(self.bends[layer].mul_(self.u[layer]), self.c[layer])

    def tangent(self, perceptron: Perceptron, layer: int) -> None:
        """t of a layer from u."""
        _times_slope(perceptron, self.u[layer], self.slopes_between[layer], self.t[layer + 1])

    def sum_biased(self) -> None:
        """Write the sums of r over rows."""
        for r, out in zip(self.biased, self.by_bias, strict=True):
            torch.sum(r, 0, out=out)

    def penalise(self, coefficient_P: Tensor, loss: Loss, norm_P: Tensor, total_3: Tensor) -> None:
        """Write the penalty, its part of the loss, |g| and v = weight dpenalty / dg, which is 0 where |g| = 0."""
        torch.linalg.vector_norm(self.g_PD, dim=1, out=norm_P)
        excess_P = norm_P - loss.target
        if loss.one_sided:
            excess_P.clamp_min_(0.0)
        weighted_P = coefficient_P * excess_P
        penalty = torch.dot(weighted_P, excess_P)
        total_3[0] += loss.weight * penalty
        total_3[2] = penalty
        factor_P = weighted_P.mul_(2 * loss.weight).div_(norm_P + (norm_P == 0))
        torch.mul(self.g_PD, factor_P[:, None], out=self.inputs[-1])
        self.conditions[-1].zero_()


class _Wasserstein:
    """distance = sum a h(real) - sum b h(fake), f = h."""

    def __init__(self, outputs: list[Tensor], adjoints: list[Tensor], slope_PO: Tensor) -> None:
        self.real, self.fake, self.between = outputs
        self.by_real, self.by_fake, self.by_between = adjoints
        self.slope_PO = slope_PO

    def start(self, loss: Loss) -> None:
        """Write df / dh at the points between."""
        self.slope_PO.fill_(1.0)

    def finish(self, rows: Rows, t_PO: Tensor | None) -> Tensor:
        """The distance; write the derivative of the loss by the outputs, from the tangent of those between."""
        torch.neg(rows.coefficients[:, None], out=self.by_real)
        self.by_fake.copy_(rows.fake_coefficients[:, None])
        if t_PO is not None:
            self.by_between.zero_()
        return rows.coefficients @ self.real[:, 0] - rows.fake_coefficients @ self.fake[:, 0]


class _Penalty(_Wasserstein):
    """No distance, f = h."""

    def finish(self, rows: Rows, t_PO: Tensor | None) -> Tensor:
        """As of `_Wasserstein`."""
        if t_PO is not None:
            self.by_between.zero_()
        return rows.eps.new_zeros(())


class _Embedding:
    """Losses of the lengths of six differences of embeddings, in pairs or rows; the last two make up f.

    loss = sum_k sum_p a_kp |d_kp| over the first four, f = |d_4| - |d_5|.
    """

    def __init__(self, outputs: list[Tensor], adjoints: list[Tensor], slope_PO: Tensor) -> None:
        self.real, self.fake, self.between = outputs
        self.by_real, self.by_fake, self.by_between = adjoints
        self.slope_PO = slope_PO
        self.direction_6PO = slope_PO.new_empty(6, *slope_PO.shape)

    def start(self, loss: Loss) -> None:
        """As of `_Wasserstein`."""
        self._differences(self.direction_6PO)
        self.length_6P = torch.linalg.vector_norm(self.direction_6PO, dim=2)
        # Coincident points have no direction.
        self.inverse_6P1 = torch.where(self.length_6P > 0, 1 / self.length_6P, 0.0)[:, :, None]
        self.direction_6PO.mul_(self.inverse_6P1)
        torch.sub(self.direction_6PO[4], self.direction_6PO[5], out=self.slope_PO)

    def finish(self, rows: Rows, t_PO: Tensor | None) -> Tensor:
        """As of `_Wasserstein`."""
        assert t_PO is not None
        coefficient_4P = torch.stack(self._coefficients(rows))
        # The derivative of a direction n along t: (t - (n . t) n) / length.
        last = self.direction_6PO[4:]
        along = (last * t_PO).sum(2, keepdim=True)
        turn = last.mul_(along).neg_().add_(t_PO).mul_(self.inverse_6P1[4:])
        pull = self.direction_6PO[:4].mul_(coefficient_4P[:, :, None])
        self._spread(pull, turn)
        torch.sub(turn[0], turn[1], out=self.by_between)
        return -(coefficient_4P * self.length_6P[:4]).sum()

    def _differences(self, out_6PO: Tensor) -> None:
        raise NotImplementedError

    def _coefficients(self, rows: Rows) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _spread(self, pull_4PO: Tensor, turn_2PO: Tensor) -> None:
        """Write the adjoints of real and generated embeddings from the pulls along the differences."""
        raise NotImplementedError


class _Energy(_Embedding):
    """Differences r1 - g2, r2 - g1, g1 - g2, r1 - r2, and x_hat - g2, x_hat - r2."""

    def _differences(self, out_6PO: Tensor) -> None:
        r1, r2, g1, g2 = self.real[0::2], self.real[1::2], self.fake[0::2], self.fake[1::2]
        pairs = (r1, g2), (r2, g1), (g1, g2), (r1, r2), (self.between, g2), (self.between, r2)
        for (one, other), out in zip(pairs, out_6PO, strict=True):
            torch.sub(one, other, out=out)

    def _coefficients(self, rows: Rows) -> tuple[Tensor, ...]:
        a = rows.coefficients
        return -a, -a, a, a

    def _spread(self, pull_4PO: Tensor, turn_2PO: Tensor) -> None:
        r1g2, r2g1, g1g2, r1r2 = pull_4PO
        torch.add(r1g2, r1r2, out=self.by_real[0::2])
        torch.sub(r2g1, r1r2, out=self.by_real[1::2]).add_(turn_2PO[1])
        torch.sub(g1g2, r2g1, out=self.by_fake[0::2])
        torch.add(r1g2, g1g2, out=self.by_fake[1::2]).add_(turn_2PO[0]).neg_()


class _Surrogate(_Embedding):
    """Differences of real and generated embeddings, and those between, to the partner's generated one and to 0."""

    def _differences(self, out_6PO: Tensor) -> None:
        partner = _partners(self.fake)
        for index, embedding in enumerate((self.real, self.fake, self.between)):
            torch.sub(embedding, partner, out=out_6PO[2 * index])
            out_6PO[2 * index + 1].copy_(embedding)

    def _coefficients(self, rows: Rows) -> tuple[Tensor, ...]:
        a, b = rows.coefficients, rows.fake_coefficients
        return -a, a, b, -b

    def _spread(self, pull_4PO: Tensor, turn_2PO: Tensor) -> None:
        real_near, real_far, fake_near, fake_far = pull_4PO
        torch.add(real_near, real_far, out=self.by_real)
        torch.add(fake_near, fake_far, out=self.by_fake)
        self.by_fake -= _partners(real_near + fake_near + turn_2PO[0])


class Compared:
    """The caller's own comparison of embeddings. Autograd differentiates it, by the embeddings alone."""

    def __init__(self, outputs: Sequence[Tensor], adjoints: Sequence[Tensor], slope_PO: Tensor) -> None:
        self.outputs, self.adjoints, self.slope_PO = outputs, adjoints, slope_PO

    def start(self, loss: Loss) -> None:
        """As of `_Wasserstein`."""
        assert loss.compare is not None
        with torch.enable_grad():
            # Copies, since what is saved for the derivative must not be written to.
            self.embeddings = [h.clone().requires_grad_() for h in self.outputs]
            self.compared = loss.compare.compare(*self.embeddings)
        self.slope_PO.copy_(self.compared[1].detach())

    def finish(self, rows: Rows, t_PO: Tensor | None) -> Tensor:
        """As of `_Wasserstein`."""
        assert t_PO is not None
        distance = self.compared[0]
        # The penalty depends on embeddings through the slope: its derivative along the tangent.
        cotangents = torch.full_like(distance, -1.0), t_PO.to(self.compared[1].dtype)
        for adjoint, found in zip(
            self.adjoints, torch.autograd.grad(self.compared, self.embeddings, cotangents), strict=True
        ):
            adjoint.copy_(found)
        del self.embeddings, self.compared
        return distance.detach()


_HEADS = {
    "wasserstein": _Wasserstein,
    "energy": _Energy,
    "surrogate": _Surrogate,
    PENALTY: _Penalty,
    COMPARED: Compared,
}


def _partners(rows: Tensor) -> Tensor:
    """Rows 2k and 2k + 1 exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _times_slope(perceptron: Perceptron, by_h: Tensor, slope: Tensor, out: Tensor) -> None:
    if perceptron.straight:
        # `slope` is h, whose sign is that of z.
        _leaky_relu_backward(by_h, slope, perceptron.slope, True, grad_input=out)
    else:
        torch.mul(by_h, slope, out=out)
