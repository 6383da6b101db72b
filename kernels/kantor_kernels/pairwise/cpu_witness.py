"""The energy kernel's MMD^2 of two samples and the slope of its witness on the CPU, in one compiled pass over pairs.

With q = 1 / |z - y|, row factors f and column weights w, c = f w q, the sums of a row z over the columns y are

    value: -sum f w |z - y|      slope: S = -sum c (z - y) = sum c y - z sum c

and under a cotangent V of S, with e = -f w q^3 (z - y) . V,

    by z: -V sum c - z sum e + sum e y      by y: sum c V + sum e z - y sum e, over rows

A few rows meet a few columns at a time: distances, what becomes of them, and the products with it stay in the first
cache. The backward pass takes the distances again, which is faster than to keep them. Where z and y are so close that
the difference of the sums loses theirs, it is taken by itself. Shapes: M rows of each sample, of which the first R are
this call's, P points, O features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor_kernels import threads
from kantor_kernels.compiling import jit
from kantor_kernels.cpu_products import COLUMNS, multiply, multiply_add, squared_distances, transpose
from kantor_kernels.pairwise.kernels import Kernel
from kantor_kernels.threads import run_parts

# Rows and columns of a tile.
ROWS, ACROSS = 24, 128
# Below this fraction of |z|^2 + |y|^2 a squared distance is that of a close pair.
CLOSE = 2.0**-22
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
        ctx.pairs = _Pairs(x_MO, y_MO, at_PO, a_M, b_M, rows)
        ctx.set_materialize_grads(False)
        return ctx.pairs.sums()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "kernel_witness is differentiable once; where more is asked for, pass backend='reference'"
            )
        return *ctx.pairs.turned(*cotangents), None, None, None


class _Pairs:
    """Points and weights as the compiled functions want them, and as they came, for close pairs.

    Columns are those of x and, from a whole cache line on, those of y, without weight between them; all points are
    centred, so that sums near the origin lose least. Rows are the first R of x, those of y, and the points.
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

        self.y, turned, squares, w = zeros(columns, across), zeros(o, columns), zeros(columns), zeros(columns)
        at, factors, self.sums_of_c = zeros(self.points, across), zeros(self.count, 2), zeros(self.points)
        # No weights are equal ones.
        weights = tuple(_array(x_MO.new_ones(m) if w_M is None else w_M.detach()) for w_M in (a_M, b_M))
        points = tuple(_array(v.detach()) for v in (x_MO, y_MO, at_PO))
        _prepare(*points, *weights, rows, self.y, turned, squares, w, at, factors)
        tau = x_MO.new_tensor(CLOSE).numpy()[()]
        self.arrays = rows, *points, self.y, turned, squares, w, at, factors, tau

    def sums(self) -> tuple[Tensor, Tensor]:
        """MMD^2's share of the first rows, and the slopes."""
        value = np.zeros(self.count)
        self.slope = self.like.new_empty(self.count, self.y.shape[1])
        starter, parts = self._threads(self.count)
        scratch = self.like.new_empty(parts, ROWS * ACROSS).numpy()
        _all_sums(starter, parts, *self.arrays, scratch, value, self.slope.numpy(), self.sums_of_c)
        total = self.like.new_tensor(value[: 2 * self.rows].sum())
        return total, self.slope[2 * self.rows :, : self.features]

    def turned(self, by_value: Tensor | None, by_slope: Tensor | None) -> list[Tensor]:
        """Derivatives by x, y and the points."""
        m = self.like.shape[0]
        by_columns, by_at = self.like.new_zeros(self.y.shape), self.like.new_zeros(self.points, self.y.shape[1])
        if by_slope is not None and self.points:
            starter, parts = self._threads(self.points)
            v = np.zeros_like(by_at.numpy())
            v[:, : self.features] = by_slope.detach().numpy()
            scratch = self.like.new_empty(parts, 2 * ROWS * ACROSS).numpy()
            by_parts = self.like.new_empty(parts, *self.y.shape).numpy()
            _all_turned(
                starter, parts, *self.arrays, scratch, v, self.sums_of_c, by_at.numpy(), by_parts, by_columns.numpy()
            )  # fmt: skip
        both = [by_columns[first : first + m, : self.features] for first in (0, self.half)]
        if by_value is not None:
            for index, by in enumerate(both):
                # Of each pair that is met from both ends, one end is looked at.
                mine = self.slope[index * self.rows : (index + 1) * self.rows, : self.features]
                by[: self.rows].add_(mine * (2 * by_value))
        return [*both, by_at[:, : self.features]]

    def _threads(self, rows: int) -> tuple[int, int]:
        return threads.starter(), threads.how_many(rows * len(self.y) * (1 + self.features / 8))


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
    middle = np.zeros(o)
    for j in range(m):
        for d in range(o):
            middle[d] += np.float64(x[j, d]) + np.float64(y[j, d])
    centre = (middle / (2 * m)).astype(x.dtype)
    for j in range(m):
        for d in range(o):
            columns[j, d], columns[half + j, d] = x[j, d] - centre[d], y[j, d] - centre[d]
    for i in range(len(at)):
        for d in range(o):
            points[i, d] = at[i, d] - centre[d]
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
    starter: int, parts: int, rows: int, given_x: Any, given_y: Any, given_at: Any,
    y: Any, turned: Any, y2: Any, w: Any, at: Any, factors: Any, tau: Any,
    scratch: Any, value: Any, slope: Any, sums_of_c: Any,
) -> None:  # fmt: skip
    arguments = (
        parts, rows, given_x, given_y, given_at, y, turned, y2, w, at, factors, tau, scratch, value, slope, sums_of_c,
    )  # fmt: skip
    run_parts(starter, parts, parts, _sums, arguments)


@_jit
def _sums(
    part: int, parts: int, rows: int, given_x: Any, given_y: Any, given_at: Any,
    y: Any, turned: Any, y2: Any, w: Any, at: Any, factors: Any, tau: Any,
    scratch: Any, value: Any, slope: Any, sums_of_c: Any,
) -> None:  # fmt: skip
    """The sums of this part of the rows: of x, of y, and of the points."""
    half = len(y) // 2
    start, stop = len(factors) * part // parts, len(factors) * (part + 1) // parts
    for kind in range(3):
        first, last = max(start, kind * rows), min(stop, (kind + 1) * rows if kind < 2 else len(factors))
        points = at if kind == 2 else y[kind * half : kind * half + rows]
        given = given_at if kind == 2 else (given_y if kind == 1 else given_x)
        for i in range(first, last, ROWS):
            n, mine = min(ROWS, last - i), i - kind * rows
            _tile_of_sums(
                points[mine : mine + n], given[mine : mine + n], given_x, given_y, mine, kind == 2,
                y, turned, y2, w, factors[i : i + n], tau, scratch[part], value[i : i + n], slope[i : i + n], sums_of_c,
            )  # fmt: skip


@_jit
def _tile_of_sums(
    z: Any, given_z: Any, given_x: Any, given_y: Any, first: int, points: bool,
    y: Any, turned: Any, y2: Any, w: Any, factors: Any, tau: Any, scratch: Any, value: Any, slope: Any, sums_of_c: Any,
) -> None:  # fmt: skip
    """The sums of a few rows z, of which the first has the index `first`."""
    n, half = len(z), len(y) // 2
    totals, close, z2 = np.zeros(n), np.zeros(n), _products(z, z)
    slope[:] = 0
    for side in range(2):
        given = given_x if side == 0 else given_y
        for j in range(0, half, ACROSS):
            here = side * half + j
            stop = min(here + ACROSS, (side + 1) * half)
            tile = scratch[: n * (stop - here)].reshape(n, stop - here)
            squared_distances(tile, z, turned[:, here:stop])
            _pull(
                tile, z2, y2[here:stop], w[here:stop], factors[:, side], tau, first - j, given_z, given[j : j + ACROSS],
                totals, close, value, slope,
            )  # fmt: skip
            multiply_add(slope, tile, y[here:stop])
    for r in range(n):
        total = z.dtype.type(totals[r])
        for d in range(slope.shape[1]):
            slope[r, d] -= z[r, d] * total
        if points:
            sums_of_c[first + r] = totals[r] + close[r]


@_jit
def _products(z: Any, v: Any) -> Any:
    """z . v of each row."""
    found = np.zeros(len(z), z.dtype)
    for r in range(len(z)):
        for d in range(z.shape[1]):
            found[r] += z[r, d] * v[r, d]
    return found


@_jit
def _pull(
    tile: Any, z2: Any, y2: Any, w: Any, factors: Any, tau: Any, diagonal: int, z: Any, y: Any,
    totals: Any, near: Any, value: Any, slope: Any,
) -> None:  # fmt: skip
    """Squared distances become c; add sum c of others and of close pairs, and -sum f w |z - y|.

    A row of either sample, and a point, are not compared with the rows of their own index, on the diagonal. Close pairs
    are added to the slope here, and their c is 0. All rows in one function: each view of an array that threads share
    would be counted, by one thread at a time.
    """
    kind, features = tile.dtype.type, z.shape[1]
    zero, one = kind(0), kind(1)
    nan = zero / zero
    for r in range(len(tile)):
        row, factor, square, partner = tile[r], factors[r], z2[r], diagonal + r
        total, distance, close = zero, zero, zero
        inside = 0 <= partner < len(row)
        if inside:
            # No close one, so that it is taken out again without a search.
            row[partner] = square + y2[partner]
        for j in range(len(row)):
            t = row[j]
            far = t > tau * (square + y2[j])
            t = t if far else one
            share = w[j] if far else zero
            c = factor * share * (one / np.sqrt(t))
            total += c
            distance += c * t
            close += kind(not far)
            row[j] = c if far else nan
        if inside and row[partner] == row[partner]:
            total -= row[partner]
            distance -= row[partner] * (square + y2[partner])
            row[partner] = zero
        totals[r] += total
        value[r] -= distance
        if close > 0:
            for j in range(len(row)):
                if row[j] != row[j]:
                    row[j] = zero
                    if j == partner or j >= len(y):
                        continue
                    t = zero
                    for d in range(features):
                        t += (z[r, d] - y[j, d]) ** 2
                    # Not of coincident points; of NaN, which is neither.
                    if t != 0:
                        c = factor * w[j] / np.sqrt(t)
                        near[r] += c
                        value[r] -= c * t
                        for d in range(features):
                            slope[r, d] += c * (y[j, d] - z[r, d])


@_jit
def _all_turned(
    starter: int, parts: int, rows: int, given_x: Any, given_y: Any, given_at: Any,
    y: Any, turned: Any, y2: Any, w: Any, at: Any, factors: Any, tau: Any,
    scratch: Any, v: Any, sums_of_c: Any, by_at: Any, by_parts: Any, by_columns: Any,
) -> None:  # fmt: skip
    arguments = (
        parts, rows, given_x, given_y, given_at, y, turned, y2, w, at, factors, tau, scratch, v, sums_of_c,
        by_at, by_parts,
    )  # fmt: skip
    run_parts(starter, parts, parts, _turned, arguments)
    for part in range(parts):
        by_columns += by_parts[part]


@_jit
def _turned(
    part: int, parts: int, rows: int, given_x: Any, given_y: Any, given_at: Any,
    y: Any, turned: Any, y2: Any, w: Any, at: Any, factors: Any, tau: Any,
    scratch: Any, v: Any, sums_of_c: Any, by_at: Any, by_parts: Any,
) -> None:  # fmt: skip
    """Derivatives by this part of the points, and what it adds to those by the columns."""
    by_columns, half, features = by_parts[part], len(y) // 2, turned.shape[0]
    by_columns[:] = 0
    sums_of_e = np.zeros(len(y), y.dtype)
    # Cotangents and points of a tile, one upon the other.
    both = np.zeros((2 * ROWS, y.shape[1]), y.dtype)
    start, stop = len(at) * part // parts, len(at) * (part + 1) // parts
    for i in range(start, stop, ROWS):
        n = min(ROWS, stop - i)
        both[:n], both[n : 2 * n] = v[i : i + n], at[i : i + n]
        totals, z = np.zeros(n), at[i : i + n]
        z2, along = _products(z, z), _products(z, v[i : i + n])
        for side in range(2):
            given = given_x if side == 0 else given_y
            for j in range(0, half, ACROSS):
                here = side * half + j
                last = min(here + ACROSS, (side + 1) * half)
                tile = scratch[part, : 2 * n * (last - here)].reshape(2 * n, last - here)
                c, e = tile[:n], tile[n:]
                squared_distances(c, at[i : i + n], turned[:, here:last])
                multiply(e, v[i : i + n], turned[:, here:last])
                _turn(
                    c, e, v[i : i + n], z2, along, y2[here:last], w[here:last],
                    factors[2 * rows + i : 2 * rows + i + n, side], tau, i - j,
                    given_at[i : i + n], given[j : j + ACROSS],
                    totals, sums_of_e[here:last], by_at[i : i + n], by_columns[here:last],
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
def _turn(
    c: Any, e: Any, v: Any, z2: Any, along: Any, y2: Any, w: Any, factors: Any, tau: Any, diagonal: int,
    z: Any, y: Any, totals: Any, sums_of_e: Any, by_z: Any, by_y: Any,
) -> None:  # fmt: skip
    """Squared distances become c, and products V . y become e; add sums of e over columns and over rows.

    Close pairs are added to the derivatives here, and have c = e = 0; what c V adds by z, the caller does.
    """
    kind, features = c.dtype.type, z.shape[1]
    zero, one = kind(0), kind(1)
    nan = zero / zero
    for r in range(len(c)):
        pulls, turns, factor, square, partner = c[r], e[r], factors[r], z2[r], diagonal + r
        vz = along[r]
        total, close = zero, zero
        inside = 0 <= partner < len(pulls)
        if inside:
            pulls[partner] = square + y2[partner]
        for j in range(len(pulls)):
            t = pulls[j]
            far = t > tau * (square + y2[j])
            t = t if far else one
            share = w[j] if far else zero
            q = one / np.sqrt(t)
            pull = factor * share * q
            turn = pull * (q * q) * (turns[j] - vz)
            total += turn
            sums_of_e[j] += turn
            close += kind(not far)
            turns[j] = turn
            pulls[j] = pull if far else nan
        if inside and pulls[partner] == pulls[partner]:
            total -= turns[partner]
            sums_of_e[partner] -= turns[partner]
            pulls[partner], turns[partner] = zero, zero
        totals[r] += total
        if close > 0:
            for j in range(len(pulls)):
                if pulls[j] != pulls[j]:
                    pulls[j] = zero
                    if j == partner or j >= len(y):
                        continue
                    t, across = zero, zero
                    for d in range(features):
                        t += (z[r, d] - y[j, d]) ** 2
                        across += (z[r, d] - y[j, d]) * v[r, d]
                    if t != 0:
                        pull = factor * w[j] / np.sqrt(t)
                        for d in range(features):
                            turn = pull * across / t * (z[r, d] - y[j, d])
                            by_z[r, d] += turn
                            by_y[j, d] += pull * v[r, d] - turn
