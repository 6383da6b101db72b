"""The energy kernel's MMD^2 of two samples and the slope of its witness on the CPU, in one compiled pass over pairs.

With q = 1 / |z - y|, row factors f and column weights w, c = f w q, the sums of a row z over the columns y are

    value: -sum f w |z - y|      slope: S = -sum c (z - y) = sum c y - z sum c

and under a cotangent V of S, with e = -f w q^3 (z - y) . V,

    by z: -V sum c - z sum e + sum e y      by y: sum c V + sum e z - y sum e, over rows

A few rows meet a few columns at a time: products, what becomes of them, and the products with it stay in the first
cache. Where a product loses a close pair, its differences are taken. The pairs of the witness are held as q for the
backward pass. Shapes: M rows of each sample, of which the first R are this call's, P points, O features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor_kernels import threads
from kantor_kernels.compiling import jit
from kantor_kernels.cpu_products import COLUMNS, multiply, multiply_add, transpose
from kantor_kernels.pairwise.kernels import Kernel
from kantor_kernels.pairwise.tiled import NEAR
from kantor_kernels.threads import run_parts

# Rows and columns of a tile.
ROWS, ACROSS = 24, 256
# Not "nnan" or "ninf": a NaN among the points must come out as a NaN.
_jit = jit(fastmath={"reassoc", "contract", "arcp", "afn", "nsz"}, error_model="numpy")


def kernel_witness(
    x_MO: Tensor, y_MO: Tensor, a_M: Tensor | None, b_M: Tensor | None, at_PO: Tensor, rows: int, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """As the reference, for the energy kernel."""
    found = _Witness.apply(x_MO, y_MO, at_PO, a_M, b_M, rows)
    assert isinstance(found, tuple)
    return found


class _Witness(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_MO: Tensor, y_MO: Tensor, at_PO: Tensor, a_M: Tensor | None, b_M: Tensor | None, rows: int
    ) -> tuple[Tensor, Tensor]:
        pairs = _Pairs(x_MO, y_MO, at_PO, a_M, b_M, rows)
        value, slope_PO = pairs.sums()
        ctx.pairs, ctx.shape = pairs, x_MO.shape
        ctx.set_materialize_grads(False)
        return value, slope_PO

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "kernel_witness is differentiable once; where more is asked for, pass backend='reference'"
            )
        by_value, by_slope = cotangents
        return *ctx.pairs.turned(by_value, by_slope), None, None, None


class _Pairs:
    """Points and weights as the compiled functions want them, and what the backward pass needs.

    Columns are those of x and, from a whole cache line on, those of y, without weight between them; all points are
    centred, as their products lose least near the origin. Rows are the first R of x, those of y, and the points.
    """

    def __init__(
        self, x_MO: Tensor, y_MO: Tensor, at_PO: Tensor, a_M: Tensor | None, b_M: Tensor | None, rows: int
    ) -> None:
        m, o = x_MO.shape
        self.rows, self.points, self.features, self.half = rows, len(at_PO), o, _padded(m)
        columns, across, self.like = 2 * self.half, _padded(o), x_MO
        self.count = 2 * rows + self.points

        def zeros(*shape: int) -> Any:
            return x_MO.new_zeros(shape).numpy()

        self.y, self.y_turned, self.y2, self.w = (
            zeros(columns, across),
            zeros(o, columns),
            zeros(columns),
            zeros(columns),
        )
        self.at, self.factors, self.sums_of_c = zeros(self.points, across), zeros(self.count, 2), zeros(self.points)
        # No weights are equal ones.
        weights = tuple(_array(x_MO.new_ones(m) if w_M is None else w_M.detach()) for w_M in (a_M, b_M))
        points = tuple(_array(v.detach()) for v in (x_MO, y_MO, at_PO))
        _prepare(*points, *weights, rows, self.y, self.y_turned, self.y2, self.w, self.at, self.factors)
        self.tau = x_MO.new_tensor(NEAR).numpy()[()]

    def sums(self) -> tuple[Tensor, Tensor]:
        """MMD^2's share of the first rows, and the slopes."""
        value = np.zeros(self.count)
        self.slope = self.like.new_empty(self.count, self.y.shape[1])
        self.q = self.like.new_empty(self.points, len(self.y)).numpy()
        starter, many, parts = self._threads(self.count)
        scratch = self.like.new_empty(parts, ROWS * ACROSS).numpy()
        arguments = (
            parts, self.rows, self.y, self.y_turned, self.y2, self.w, self.at, self.factors, self.tau,
            scratch, value, self.slope.numpy(), self.sums_of_c, self.q,
        )  # fmt: skip
        _all_sums(starter, many, *arguments)
        total = self.like.new_tensor(value[: 2 * self.rows].sum())
        return total, self.slope[2 * self.rows :, : self.features]

    def turned(self, by_value: Tensor | None, by_slope: Tensor | None) -> list[Tensor]:
        """Derivatives by x, y and the points."""
        m = self.like.shape[0]
        by_columns, by_at = self.like.new_zeros(self.y.shape), self.like.new_zeros(self.at.shape)
        if by_slope is not None and self.points:
            starter, many, parts = self._threads(self.points)
            v = np.zeros_like(self.at)
            v[:, : self.features] = by_slope.detach().numpy()
            scratch = self.like.new_empty(parts, 2 * ROWS * ACROSS).numpy()
            by_parts = self.like.new_empty(parts, *self.y.shape).numpy()
            arguments = (
                parts, self.y, self.y_turned, self.y2, self.w, self.at, self.factors[2 * self.rows :], self.tau,
                scratch, v, self.sums_of_c, self.q, by_at.numpy(), by_parts,
            )  # fmt: skip
            _all_turned(starter, many, *arguments, by_columns.numpy())
        both = [by_columns[first : first + m, : self.features] for first in (0, self.half)]
        if by_value is not None:
            for index, by in enumerate(both):
                # Of each pair that is met from both ends, one end is looked at.
                mine = self.slope[index * self.rows : (index + 1) * self.rows, : self.features]
                by[: self.rows].add_(mine * (2 * by_value))
        return [*both, by_at[:, : self.features]]

    def _threads(self, rows: int) -> tuple[int, int, int]:
        parts = threads.how_many(rows * len(self.y) * (1 + self.features / 8))
        return threads.starter(), parts, parts


def _padded(size: int) -> int:
    return -(-size // COLUMNS) * COLUMNS


def _array(tensor: Tensor) -> Any:
    return tensor.contiguous().numpy()


@_jit
def _prepare(
    x: Any, y: Any, at: Any, a: Any, b: Any, rows: int,
    columns: Any, turned: Any, squares: Any, w: Any, points: Any, factors: Any,
) -> None:  # fmt: skip
    """Centred points and their squares, column weights, and factors of the rows for columns of x and of y."""
    m, o, half = x.shape[0], x.shape[1], len(columns) // 2
    for d in range(o):
        centre = 0.0
        for j in range(m):
            centre += np.float64(x[j, d]) + np.float64(y[j, d])
        middle = x.dtype.type(centre / (2 * m))
        for j in range(m):
            columns[j, d], columns[half + j, d] = x[j, d] - middle, y[j, d] - middle
        for i in range(len(at)):
            points[i, d] = at[i, d] - middle
    for j in range(len(columns)):
        for d in range(o):
            squares[j] += columns[j, d] * columns[j, d]
    transpose(turned, columns)
    w[:m], w[half : half + m] = a, b
    total_a, total_b, aa, bb, ab = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(m):
        one, other = np.float64(a[j]), np.float64(b[j])
        total_a, total_b = total_a + one, total_b + other
        aa, bb, ab = aa + one * one, bb + other * other, ab + one * other
    for i in range(rows):
        across = total_a * total_b - ab
        factors[i] = a[i] / (total_a * total_a - aa), -a[i] / across
        factors[rows + i] = -b[i] / across, b[i] / (total_b * total_b - bb)
    for i in range(len(at)):
        factors[2 * rows + i] = 1 / (total_a - a[i]), -1 / (total_b - b[i])


@_jit
def _all_sums(
    starter: int, many: int, parts: int, rows: int, y: Any, y_turned: Any, y2: Any, w: Any, at: Any, factors: Any,
    tau: Any, scratch: Any, value: Any, slope: Any, sums_of_c: Any, q: Any,
) -> None:  # fmt: skip
    arguments = parts, rows, y, y_turned, y2, w, at, factors, tau, scratch, value, slope, sums_of_c, q
    run_parts(starter, many, parts, _sums, arguments)


@_jit
def _sums(
    part: int, parts: int, rows: int, y: Any, y_turned: Any, y2: Any, w: Any, at: Any, factors: Any,
    tau: Any, scratch: Any, value: Any, slope: Any, sums_of_c: Any, q: Any,
) -> None:  # fmt: skip
    """The sums of this part of the rows: of x, of y, and of the points."""
    half = len(y) // 2
    start, stop = len(factors) * part // parts, len(factors) * (part + 1) // parts
    for kind in range(3):
        first, last = max(start, kind * rows), min(stop, (kind + 1) * rows if kind < 2 else len(factors))
        points = at if kind == 2 else y[kind * half : kind * half + rows]
        for i in range(first, last, ROWS):
            n, mine = min(ROWS, last - i), i - kind * rows
            _tile_of_sums(
                points[mine : mine + n], mine, kind == 2, y, y_turned, y2, w, factors[i : i + n], tau,
                scratch[part], value[i : i + n], slope[i : i + n], sums_of_c, q,
            )  # fmt: skip


@_jit
def _tile_of_sums(
    z: Any, first: int, held: bool, y: Any, y_turned: Any, y2: Any, w: Any, factors: Any, tau: Any,
    scratch: Any, value: Any, slope: Any, sums_of_c: Any, q: Any,
) -> None:  # fmt: skip
    """The sums of a few rows z, of which the first has the index `first`."""
    n, half = len(z), len(y) // 2
    totals, pulls = np.zeros(n), np.zeros(n)
    slope[:] = 0
    for side in range(2):
        for j in range(0, half, ACROSS):
            here = side * half + j
            stop = min(here + ACROSS, (side + 1) * half)
            tile = scratch[: n * (stop - here)].reshape(n, stop - here)
            multiply(tile, z, y_turned[:, here:stop])
            for r in range(n):
                square = z.dtype.type(0)
                for d in range(y_turned.shape[0]):
                    square += z[r, d] * z[r, d]
                # A row of either sample, and a point, leave out both rows of their own index.
                partner = first + r - j
                if 0 <= partner < stop - here:
                    tile[r, partner] = np.inf
                if held:
                    total, pull = _held_row(
                        tile[r], z[r], y[here:stop], square, y2[here:stop], w[here:stop], factors[r, side], tau,
                        partner, y_turned.shape[0], slope[r], q[first + r, here:stop],
                    )  # fmt: skip
                    pulls[r] += pull
                else:
                    total, distance = _row(
                        tile[r], z[r], y[here:stop], square, y2[here:stop], w[here:stop], factors[r, side], tau,
                        partner, y_turned.shape[0], slope[r],
                    )  # fmt: skip
                    value[r] -= distance
                totals[r] += total
            multiply_add(slope[:n], tile, y[here:stop])
    for r in range(n):
        total = z.dtype.type(totals[r])
        for d in range(slope.shape[1]):
            slope[r, d] -= z[r, d] * total
        if held:
            sums_of_c[first + r] = pulls[r]


@_jit
def _row(
    row: Any, z: Any, y: Any, square: Any, y2: Any, w: Any, factor: Any, tau: Any, partner: int, features: int,
    slope: Any,
) -> tuple[float, float]:  # fmt: skip
    """Products z . y become c; sum c, and sum f w |z - y|. Close pairs add to the slope, and nothing to c."""
    kind = row.dtype.type
    zero, one = kind(0), kind(1)
    nan = zero / zero
    total, distance, close = zero, zero, zero
    for j in range(len(row)):
        size = square + y2[j]
        t = size - (row[j] + row[j])
        far = t > tau * size
        t = t if far else one
        share = w[j] if far else zero
        c = factor * share * (one / np.sqrt(t))
        total += c
        distance += c * t
        close += kind(not far)
        row[j] = c if far else nan
    if close > 0:
        for j in range(len(row)):
            if row[j] != row[j]:
                t = zero
                if j != partner:
                    for d in range(features):
                        t += (z[d] - y[j, d]) ** 2
                # Coincident points, and NaN, which is neither.
                c = zero if t == 0 else factor * w[j] / np.sqrt(t)
                distance += c * t
                row[j] = zero
                for d in range(features):
                    slope[d] += c * (y[j, d] - z[d])
    return np.float64(total), np.float64(distance)


@_jit
def _held_row(
    row: Any, z: Any, y: Any, square: Any, y2: Any, w: Any, factor: Any, tau: Any, partner: int, features: int,
    slope: Any, q: Any,
) -> tuple[float, float]:  # fmt: skip
    """As `_row`, and q; sum c without and with close pairs."""
    kind = row.dtype.type
    zero, one = kind(0), kind(1)
    nan = zero / zero
    total, pull, close = zero, zero, zero
    for j in range(len(row)):
        size = square + y2[j]
        t = size - (row[j] + row[j])
        far = t > tau * size
        t = t if far else one
        share = w[j] if far else zero
        root = one / np.sqrt(t)
        c = factor * share * root
        total += c
        close += kind(not far)
        row[j] = c
        q[j] = root if far else nan
    if close > 0:
        for j in range(len(row)):
            if q[j] != q[j]:
                t = zero
                if j != partner:
                    for d in range(features):
                        t += (z[d] - y[j, d]) ** 2
                q[j] = zero if t == 0 else one / np.sqrt(t)
                c = factor * w[j] * q[j]
                pull += c
                row[j] = zero
                for d in range(features):
                    slope[d] += c * (y[j, d] - z[d])
    return np.float64(total), np.float64(total) + np.float64(pull)


@_jit
def _all_turned(
    starter: int, many: int, parts: int, y: Any, y_turned: Any, y2: Any, w: Any, at: Any, factors: Any, tau: Any,
    scratch: Any, v: Any, sums_of_c: Any, q: Any, by_at: Any, by_parts: Any, by_columns: Any,
) -> None:  # fmt: skip
    arguments = parts, y, y_turned, y2, w, at, factors, tau, scratch, v, sums_of_c, q, by_at, by_parts
    run_parts(starter, many, parts, _turned, arguments)
    for part in range(parts):
        by_columns += by_parts[part]


@_jit
def _turned(
    part: int, parts: int, y: Any, y_turned: Any, y2: Any, w: Any, at: Any, factors: Any, tau: Any,
    scratch: Any, v: Any, sums_of_c: Any, q: Any, by_at: Any, by_parts: Any,
) -> None:  # fmt: skip
    """Derivatives by this part of the points, and what it adds to those by the columns."""
    by_columns, half, features = by_parts[part], len(y) // 2, y_turned.shape[0]
    by_columns[:] = 0
    sums_of_e = np.zeros(len(y), y.dtype)
    # Cotangents and points of a tile, one upon the other.
    both = np.zeros((2 * ROWS, y.shape[1]), y.dtype)
    start, stop = len(at) * part // parts, len(at) * (part + 1) // parts
    for i in range(start, stop, ROWS):
        n = min(ROWS, stop - i)
        both[:n], both[n : 2 * n] = v[i : i + n], at[i : i + n]
        totals = np.zeros(n)
        for side in range(2):
            for j in range(0, half, ACROSS):
                here = side * half + j
                last = min(here + ACROSS, (side + 1) * half)
                width = last - here
                tile = scratch[part, : 2 * n * width].reshape(2 * n, width)
                c, e = tile[:n], tile[n:]
                multiply(e, v[i : i + n], y_turned[:, here:last])
                for r in range(n):
                    square, along = y.dtype.type(0), y.dtype.type(0)
                    for d in range(features):
                        square += at[i + r, d] * at[i + r, d]
                        along += at[i + r, d] * v[i + r, d]
                    totals[r] += _turned_row(
                        c[r], e[r], at[i + r], y[here:last], v[i + r], square, along, y2[here:last], w[here:last],
                        factors[i + r, side], tau, features, q[i + r, here:last], sums_of_e[here:last],
                        by_at[i + r], by_columns[here:last],
                    )  # fmt: skip
                multiply_add(by_at[i : i + n], e, y[here:last])
                multiply_add(by_columns[here:last], tile.T, both[: 2 * n])
        for r in range(n):
            total = y.dtype.type(totals[r])
            for d in range(features):
                by_at[i + r, d] -= v[i + r, d] * sums_of_c[i + r] + at[i + r, d] * total
    for j in range(len(y)):
        for d in range(features):
            by_columns[j, d] -= y[j, d] * sums_of_e[j]


@_jit
def _turned_row(
    c: Any, e: Any, z: Any, y: Any, v: Any, square: Any, along: Any, y2: Any, w: Any, factor: Any, tau: Any,
    features: int, q: Any, sums_of_e: Any, by_z: Any, by_y: Any,
) -> float:  # fmt: skip
    """Products V . y become e, and c; sum e. Close pairs add to the derivatives, and nothing to e."""
    kind = c.dtype.type
    zero, one = kind(0), kind(1)
    total, close = zero, zero
    for j in range(len(c)):
        root = q[j]
        fwq = factor * w[j] * root
        near = root * root * tau * (square + y2[j]) >= one
        found = fwq * root * root * (e[j] - along)
        found = zero if near else found
        close += kind(near)
        c[j], e[j] = fwq, found
        total += found
        sums_of_e[j] += found
    if close > 0:
        for j in range(len(c)):
            root = q[j]
            if root * root * tau * (square + y2[j]) >= one:
                exact = zero
                for d in range(features):
                    exact -= v[d] * (z[d] - y[j, d])
                found = c[j] * root * root * exact
                for d in range(features):
                    by_z[d] -= found * (z[d] - y[j, d])
                    by_y[j, d] += found * (z[d] - y[j, d])
    return np.float64(total)
