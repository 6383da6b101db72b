"""Backend `torch`: the closed form in matrix products; any device. The formulas and their letters are in README.md.

On the CPU a block of the batch at a time, small enough for its values to stay in the cache, in buffers that the next
step uses again. Shapes: B rows of a block, P points of the penalty, D features, O outputs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kantor_kernels.critic_step.problem import CriticStep, Loss, Perceptron, Rows

# Rows of the batch in a block on the CPU, even.
BLOCK = 128
# Sets of buffers that a thread keeps.
KEPT = 4

_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """As the reference."""
    with torch.no_grad():
        gradients = _like(perceptron)
        norm_P = torch.empty_like(rows.eps)
        parts = []
        for block, points in _blocks(rows, loss.kind):
            work = _work(perceptron, len(block.real), block.real.shape[1], loss.kind)
            parts.append(work.step(perceptron, block, loss, norm_P[points]))
            work.collect(perceptron, gradients, add=len(parts) > 1)
        distance, penalty = parts[0] if len(parts) == 1 else torch.stack([torch.stack(part) for part in parts]).sum(0)
        return CriticStep(loss.weight * penalty - distance, distance, penalty, norm_P, gradients)


def _blocks(rows: Rows, kind: str) -> list[tuple[Rows, slice]]:
    b, step = len(rows.real), 2 if kind == "energy" else 1
    if rows.real.device.type != "cpu" or b <= BLOCK:
        return [(rows, slice(None))]
    found = []
    for start in range(0, b, BLOCK):
        mine, points = slice(start, start + BLOCK), slice(start // step, (start + BLOCK) // step)
        conditions = None if rows.conditions is None else rows.conditions[mine]
        found.append((Rows(rows.real[mine], rows.fake[mine], conditions, *(v[points] for v in rows[3:])), points))
    return found


def _like(perceptron: Perceptron) -> tuple[Tensor, ...]:
    """New tensors of the parameters' shapes in one piece of memory."""
    parameters = perceptron.parameters()
    sizes = [p.numel() for p in parameters]
    parts = parameters[0].new_empty(sum(sizes)).split(sizes)
    return tuple(part.view(p.shape) for part, p in zip(parts, parameters, strict=True))


_local = threading.local()


def _work(perceptron: Perceptron, b: int, features: int, kind: str) -> _Work:
    """Buffers for this shape: on the CPU those of the last such step; elsewhere the allocator keeps memory anyway."""
    first = perceptron.weights[0]
    if first.device.type != "cpu":
        return _Work(perceptron, b, features, kind)
    shapes = tuple(w.shape for w in perceptron.weights)
    key = (shapes, b, features, kind, perceptron.straight, first.dtype)
    kept: OrderedDict[object, _Work] = _local.__dict__.setdefault("kept", OrderedDict())
    if key in kept:
        kept.move_to_end(key)
    else:
        kept[key] = _Work(perceptron, b, features, kind)
        if len(kept) > KEPT:
            kept.popitem(last=False)
    return kept[key]


class _Work:
    """The buffers of a block, and the steps of the closed form on them.

    The rows of `values` and `cotangents` are the real and generated ones, the points between, and the tangents there.
    r, the adjoint, has all rows but the last, and s, the reverse of f, those of the tangents, so that the gradient of a
    weight is one product of cotangents and values. Of a piecewise linear critic under the Wasserstein loss the adjoint
    of the points between is zero: the tangents take their place, and reverse and adjoint are one (`merged`).
    """

    def __init__(self, perceptron: Perceptron, b: int, features: int, kind: str) -> None:
        self.merged = kind == "wasserstein" and perceptron.straight
        points = b // 2 if kind == "energy" else b
        rows = 2 * b + points
        between = slice(2 * b, rows)
        everything, tangent = slice(0, rows), between if self.merged else slice(rows, rows + points)
        widths = [perceptron.inputs, *(len(w) for w in perceptron.weights)]
        hidden = widths[1:-1]

        def buffers(rows: int, widths: Sequence[int]) -> list[Tensor]:
            return [perceptron.weights[0].new_empty(rows, width) for width in widths]

        self.values, self.cotangents = (buffers(tangent.stop, widths) for widths in (widths, widths[1:]))
        self.h, self.t = ([value[part] for value in self.values] for part in (everything, tangent))
        self.r, self.s = ([cotangent[part] for cotangent in self.cotangents] for part in (everything, tangent))
        self.biased = [r[: 2 * b] if self.merged else r for r in self.r]
        (self.g_PD,) = buffers(points, [features])
        self.x_real, self.x_fake, self.x_between, self.v_PD = (
            self.values[0][part, :features] for part in (slice(b), slice(b, 2 * b), between, tangent)
        )
        self.c_real, self.c_fake, self.c_between, self.v_conditions = (
            self.values[0][part, features:] for part in (slice(b), slice(b, 2 * b), between, tangent)
        )
        outputs = [self.values[-1][part] for part in (slice(b), slice(b, 2 * b), between)]
        adjoints = [self.r[-1][part] for part in (slice(b), slice(b, 2 * b), between)]
        self.head = _HEADS[kind](outputs, adjoints, self.s[-1])
        self.step_of_points = b // points

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

    def step(self, perceptron: Perceptron, rows: Rows, loss: Loss, norm_P: Tensor) -> tuple[Tensor, Tensor]:
        """(distance, penalty) of the block; leaves values and cotangents for `collect`, and writes the norms."""
        weights, biases, last = perceptron.weights, perceptron.biases, len(perceptron.weights) - 1
        self._load(rows)

        # Forward at all rows: h_l = s(z_l).
        for layer in range(last + 1):
            _linear(self.h[layer], weights[layer], biases[layer], self.h[layer + 1])
            if layer < last:
                self._activate(perceptron, layer)

        # Reverse at the points between: s_l = df / dz_l, and g = df / dx_hat.
        self.head.reverse()
        distance = None
        if self.merged:
            distance = self.head.adjoint(rows, None)
            self._reverse(perceptron, self.r, self.r, self.slopes)
        else:
            self._reverse(perceptron, self.s, self.c, self.slopes_between)
        torch.mm(self.s[0], weights[0][:, : self.g_PD.shape[1]], out=self.g_PD)
        penalty = self._penalise(rows.penalty_coefficients, loss, norm_P)

        # Tangent along v: u_l = W_l t_(l-1), t_l = s'(z_l) u_l.
        for layer in range(last):
            torch.mm(self.t[layer], weights[layer].mT, out=self.u[layer])
            _times_slope(perceptron, self.u[layer], self.slopes_between[layer], self.t[layer + 1])

        # Adjoint at all rows: r_l = dloss / dz_l.
        if distance is None:
            torch.mm(self.t[last], weights[last].mT, out=self.t[last + 1])
            distance = self.head.adjoint(rows, self.t[last + 1])
            self._reverse(perceptron, self.r, self.r, self.slopes, bent=not perceptron.straight)
        return distance, penalty

    def collect(self, perceptron: Perceptron, gradients: Sequence[Tensor], *, add: bool) -> None:
        """Write the gradients of the block, or add them: dW_l = r_l h_(l-1) + s_l t_(l-1), db_l = r_l."""
        remaining = iter(gradients)
        for layer, bias in enumerate(perceptron.biases):
            by_weight = next(remaining)
            if add:
                by_weight.addmm_(self.cotangents[layer].mT, self.values[layer])
            else:
                torch.mm(self.cotangents[layer].mT, self.values[layer], out=by_weight)
            if bias is not None and add:
                next(remaining).add_(self.biased[layer].sum(0))
            elif bias is not None:
                torch.sum(self.biased[layer], 0, out=next(remaining))

    def _load(self, rows: Rows) -> None:
        self.x_real.copy_(rows.real)
        self.x_fake.copy_(rows.fake)
        step, eps = self.step_of_points, rows.eps[:, None]
        torch.lerp(rows.fake[::step], rows.real[::step], eps, out=self.x_between)
        if rows.conditions is not None:
            self.c_real.copy_(rows.conditions)
            self.c_fake.copy_(rows.conditions)
            self.c_between.copy_(rows.conditions[::step])

    def _activate(self, perceptron: Perceptron, layer: int) -> None:
        """s(z) in place of z, and what its derivatives need."""
        z = self.h[layer + 1]
        if perceptron.straight:
            F.leaky_relu_(z, perceptron.slope)
            return
        slope, bend, z_between = self.slopes[layer], self.bends[layer], self.h_between[layer + 1]
        slope_between = self.slopes_between[layer]
        if perceptron.activation == "tanh":
            torch.tanh(z, out=z)
            torch.addcmul(z.new_ones(()), z, z, value=-1, out=slope)
            torch.mul(z_between, slope_between, out=bend).mul_(-2)
            return
        sigmoid = torch.sigmoid(z, out=slope)
        torch.addcmul(slope_between, slope_between, slope_between, value=-1, out=bend)
        if perceptron.activation == "silu":
            bend.mul_(z_between.mul(slope_between).mul_(-2).add_(z_between).add_(2))
            h = z.mul_(sigmoid)
            torch.addcmul(sigmoid + h, h, sigmoid, value=-1, out=slope)
            return
        # PyTorch's softplus is the identity above 20.
        slope.masked_fill_(z > 20, 1.0)
        bend.masked_fill_(z_between > 20, 0.0)
        z.copy_(F.softplus(z))

    def _reverse(
        self,
        perceptron: Perceptron,
        cotangents: list[Tensor],
        before: list[Tensor],
        slopes: list[Tensor],
        *,
        bent: bool = False,
    ) -> None:
        """From the last layer's cotangents to those of the others; `before` is what they are before the slope."""
        for layer in range(len(slopes) - 1, -1, -1):
            torch.mm(cotangents[layer + 1], perceptron.weights[layer + 1], out=before[layer])
            _times_slope(perceptron, before[layer], slopes[layer], cotangents[layer])
            if bent:
                self.r_between[layer].addcmul_(self.bends[layer].mul_(self.u[layer]), self.c[layer])

    def _penalise(self, coefficient_P: Tensor, loss: Loss, norm_P: Tensor) -> Tensor:
        """The penalty; writes |g| and v = weight dpenalty / dg, which is 0 where |g| = 0."""
        torch.linalg.vector_norm(self.g_PD, dim=1, out=norm_P)
        excess_P = norm_P - loss.target
        if loss.one_sided:
            excess_P.clamp_min_(0.0)
        share_P = coefficient_P * excess_P
        penalty = torch.dot(share_P, excess_P)
        factor_P = share_P.mul_(2 * loss.weight).div_(norm_P + (norm_P == 0))
        torch.mul(self.g_PD, factor_P[:, None], out=self.v_PD)
        self.v_conditions.zero_()
        return penalty


class _Wasserstein:
    """distance = sum a h(real) - sum b h(fake), f = h."""

    def __init__(self, outputs: list[Tensor], adjoints: list[Tensor], slope_PO: Tensor) -> None:
        self.real, self.fake, self.between = outputs
        self.by_real, self.by_fake, self.by_between = adjoints
        self.slope_PO = slope_PO

    def reverse(self) -> None:
        """Write df / dh at the points between."""
        self.slope_PO.fill_(1.0)

    def adjoint(self, rows: Rows, t_PO: Tensor | None) -> Tensor:
        """The distance; write the derivative of the loss by the outputs, from the tangent of those between."""
        torch.neg(rows.coefficients[:, None], out=self.by_real)
        self.by_fake.copy_(rows.fake_coefficients[:, None])
        if t_PO is not None:
            self.by_between.zero_()
        return torch.dot(rows.coefficients, self.real[:, 0]) - torch.dot(rows.fake_coefficients, self.fake[:, 0])


class _Embedding:
    """Losses of the lengths of six differences of embeddings, in pairs or rows; the last two make up f.

    loss = sum_k sum_p a_kp |d_kp| over the first four, f = |d_4| - |d_5|.
    """

    def __init__(self, outputs: list[Tensor], adjoints: list[Tensor], slope_PO: Tensor) -> None:
        self.real, self.fake, self.between = outputs
        self.by_real, self.by_fake, self.by_between = adjoints
        self.slope_PO = slope_PO
        self.direction_6PO = slope_PO.new_empty(6, *slope_PO.shape)

    def reverse(self) -> None:
        """Write df / dh at the points between."""
        self._differences(self.direction_6PO)
        self.length_6P = torch.linalg.vector_norm(self.direction_6PO, dim=2)
        # Coincident points have no direction.
        self.inverse_6P1 = torch.where(self.length_6P > 0, 1 / self.length_6P, 0.0)[:, :, None]
        self.direction_6PO.mul_(self.inverse_6P1)
        torch.sub(self.direction_6PO[4], self.direction_6PO[5], out=self.slope_PO)

    def adjoint(self, rows: Rows, t_PO: Tensor | None) -> Tensor:
        """The distance; write the derivative of the loss by the outputs, from the tangent of those between."""
        assert t_PO is not None
        coefficient_4P = torch.stack(self._coefficients(rows))
        # The derivative of a direction n along t: (t - (n . t) n) / length.
        last = self.direction_6PO[4:]
        along = (last * t_PO).sum(2, keepdim=True)
        turn = last.mul_(along).neg_().add_(t_PO).mul_(self.inverse_6P1[4:])
        pull = self.direction_6PO[:4].mul_(coefficient_4P[:, :, None])
        self._spread(pull, turn)
        torch.sub(turn[0], turn[1], out=self.by_between)
        return -torch.dot(coefficient_4P.flatten(), self.length_6P[:4].flatten())

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
    """Differences of real and generated embeddings to the partner's generated one and to 0; f as they."""

    def _differences(self, out_6PO: Tensor) -> None:
        partner = _partners(self.fake)
        for index, embedding in enumerate((self.real, self.fake, self.between)):
            near, far = (0, 2, 4)[index], (1, 3, 5)[index]
            torch.sub(embedding, partner, out=out_6PO[near])
            out_6PO[far].copy_(embedding)

    def _coefficients(self, rows: Rows) -> tuple[Tensor, ...]:
        a, b = rows.coefficients, rows.fake_coefficients
        return -a, a, b, -b

    def _spread(self, pull_4PO: Tensor, turn_2PO: Tensor) -> None:
        real_near, real_far, fake_near, fake_far = pull_4PO
        torch.add(real_near, real_far, out=self.by_real)
        torch.add(fake_near, fake_far, out=self.by_fake)
        self.by_fake -= _partners(real_near + fake_near + turn_2PO[0])


_HEADS = {"wasserstein": _Wasserstein, "energy": _Energy, "surrogate": _Surrogate}


def _partners(rows: Tensor) -> Tensor:
    """Rows 2k and 2k + 1 exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _linear(x: Tensor, w: Tensor, b: Tensor | None, out: Tensor) -> None:
    if b is None:
        torch.mm(x, w.mT, out=out)
    else:
        torch.addmm(b, x, w.mT, out=out)


def _times_slope(perceptron: Perceptron, by_h: Tensor, slope: Tensor, out: Tensor) -> None:
    if perceptron.straight:
        # `slope` is h, whose sign is that of z.
        _leaky_relu_backward(by_h, slope, perceptron.slope, True, grad_input=out)
    else:
        torch.mul(by_h, slope, out=out)
