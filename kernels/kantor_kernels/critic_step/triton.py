"""Backend `triton`: the closed form for layers of at most 256 units in float32. The formulas are in README.md.

A program takes a tile of rows through all layers, forwards, backwards and forwards again. What the layers hand on, and
what the weight gradients need, goes through scratch memory that stays in the cache; the next launch multiplies it to
the gradients of all layers. Rows are split over programs in parts of fixed size, added in a fixed order and without
atomics: results are deterministic. Losses that compare embeddings need one launch for each direction, since a row needs
the embeddings of others. Nothing waits for the device, so that a step can be captured into a CUDA graph.

Scratch holds, of every layer, its input and the derivative by its output, for E + 2 P rows: real and generated rows
with h and r (padded to E), points between with t and s (padded to P), the same points with h and r.
"""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false, reportAssignmentType=false

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kantor_kernels.critic_step.problem import PENALTY, STRAIGHT, CriticStep, Loss, Perceptron, Rows

# Rows of a tile: few fill a device that has many processors where there are at most FEW rows, many share weights.
FEW_ROWS, MANY_ROWS, FEW = 16, 32, 6144
# Units of a layer that a product takes at once.
CHUNK = 16
# Rows of a part of the gradients, rows taken at once, units that a program takes.
PART, PART_CHUNK, TILE = 512, 32, 32
# Launches, each forward, reverse and tangent, adjoint. The reverse of a Wasserstein critic is its adjoint.
PHASES = {
    "wasserstein": ((True, True, False),),
    "energy": ((True, False, False), (False, True, False), (False, False, True)),
    "surrogate": ((True, False, False), (False, True, False), (False, False, True)),
}
# The penalty alone is a Wasserstein step without real and generated rows.
PHASES[PENALTY] = PHASES["wasserstein"]
# loss, distance, penalty; what follows starts at multiples of 16 bytes.
HEADER = 4


@triton.jit
def layer_at(table_ptr, layer):
    """(weight, bias, inputs, outputs, number of biases) of a layer."""
    table_ptr += layer * 6
    weight = tl.load(table_ptr).to(tl.pointer_type(tl.float32))
    address = tl.load(table_ptr + 1)
    inputs = tl.load(table_ptr + 2).to(tl.int32)
    outputs = tl.load(table_ptr + 3).to(tl.int32)
    return weight, address.to(tl.pointer_type(tl.float32)), inputs, outputs, tl.where(address == 0, 0, outputs)


@triton.jit
def high(x):
    """x to 11 significant bits, what a matrix unit takes of a float32 number; x less that fits into 12."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def dot_float32(a, b):
    """a b about as accurate as in float32: both in two parts, three products, the smallest first.

    A matrix unit truncates its sums, so a sum over more than this must be taken outside.
    """
    a_high, b_high = high(a), high(b)
    c = tl.dot(a - a_high, b_high, input_precision="tf32")
    c = tl.dot(a_high, b - b_high, c, input_precision="tf32")
    return tl.dot(a_high, b_high, c, input_precision="tf32")


@triton.jit
def product(
    a_ptr,
    table_ptr,
    layer,
    BACK: tl.constexpr,
    STRIDE: tl.constexpr,
    WHOLE: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """a W^T, or a W where BACK, for rows a (ROWS, WIDTH) in scratch: (ROWS, OUT), zero beyond the layer's own size.

    STRIDE: inputs of the layer where all such layers have the same number, a multiple of 4; or 0.
    WHOLE: the layer has WIDTH inputs and outputs.
    """
    table_ptr += layer * 6
    weight_ptr = tl.load(table_ptr).to(tl.pointer_type(tl.float32))
    inputs = tl.load(table_ptr + 2).to(tl.int32)
    outputs = tl.load(table_ptr + 3).to(tl.int32)
    if STRIDE > 0:
        weight_ptr = tl.multiple_of(weight_ptr, 16)
        inputs = STRIDE
    if WHOLE:
        outputs = WIDTH
    a_ptr += tl.arange(0, ROWS)[:, None] * WIDTH
    offs_o = tl.arange(0, OUT)[None, :]
    acc = tl.zeros((ROWS, OUT), tl.float32)
    for k in tl.range(0, outputs if BACK else inputs, CHUNK):
        a = tl.load(a_ptr + k + tl.arange(0, CHUNK)[None, :])
        offs_k = k + tl.arange(0, CHUNK)[:, None]
        w_ptr = weight_ptr + (offs_k * inputs + offs_o if BACK else offs_o * inputs + offs_k)
        if WHOLE:
            w = tl.load(w_ptr)
        elif BACK:
            w = tl.load(w_ptr, mask=(offs_k < outputs) & (offs_o < inputs), other=0.0)
        else:
            w = tl.load(w_ptr, mask=(offs_k < inputs) & (offs_o < outputs), other=0.0)
        acc += dot_float32(a, w)
    return acc


@triton.jit
def activated(z, slope, ACTIVATION: tl.constexpr):
    """s(z)."""
    if ACTIVATION == "straight":
        return tl.where(z > 0, z, slope * z)
    if ACTIVATION == "tanh":
        e = tl.exp(-2 * tl.abs(z))
        return tl.where(z > 0, 1 - e, e - 1) / (1 + e)
    if ACTIVATION == "silu":
        return z * tl.sigmoid(z)
    return tl.maximum(z, 0.0) + tl.log(1 + tl.exp(-tl.abs(z)))


@triton.jit
def slope_of(z, slope, ACTIVATION: tl.constexpr):
    """s'(z); for piecewise linear activations of s(z), which has the sign of z."""
    if ACTIVATION == "straight":
        return tl.where(z > 0, 1.0, slope)
    if ACTIVATION == "tanh":
        e = tl.exp(-2 * tl.abs(z))
        return 4 * e / ((1 + e) * (1 + e))
    p = tl.sigmoid(z)
    if ACTIVATION == "silu":
        return p + z * p * (1 - p)
    return p


@triton.jit
def bend_of(z, ACTIVATION: tl.constexpr):
    """s''(z)."""
    if ACTIVATION == "tanh":
        e = tl.exp(-2 * tl.abs(z))
        h = tl.where(z > 0, 1 - e, e - 1) / (1 + e)
        return -8 * h * e / ((1 + e) * (1 + e))
    p = tl.sigmoid(z)
    if ACTIVATION == "silu":
        return p * (1 - p) * (2 + z - 2 * z * p)
    return p * (1 - p)


@triton.jit
def apart(v):
    """(length, 1 / length, direction) of rows; coincident points have no direction."""
    square = tl.sum(v * v, axis=1)
    inverse = tl.where(square > 0, 1 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
    return tl.sqrt(square), inverse, v * inverse[:, None]


@triton.jit
def turned(direction, inverse, t):
    """The derivative of a direction along t."""
    return (t - tl.sum(t * direction, axis=1)[:, None] * direction) * inverse[:, None]


@triton.jit
def forward_layer(
    right_ptr,
    mark_ptr,
    table_ptr,
    layer,
    plane,
    slope,
    ACTIVATION: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """From h of one layer, in scratch, to h of the next."""
    tl.debug_barrier()
    right_ptr += layer * plane
    offs_w = tl.arange(0, WIDTH)
    offs = tl.arange(0, ROWS)[:, None] * WIDTH + offs_w[None, :]
    _, bias_ptr, _, _, biases = layer_at(table_ptr, layer)
    bias = tl.load(bias_ptr + offs_w, mask=offs_w < biases, other=0.0)
    z = product(right_ptr, table_ptr, layer, False, STRIDE, STRIDE == WIDTH, WIDTH, ROWS, WIDTH, CHUNK) + bias[None, :]
    if ACTIVATION != "straight":
        tl.store(mark_ptr + layer * plane + offs, z)
    tl.store(right_ptr + plane + offs, activated(z, slope, ACTIVATION))


@triton.jit
def tangent_layer(
    right_ptr,
    mark_ptr,
    table_ptr,
    layer,
    plane,
    keep,
    slope,
    ACTIVATION: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """From t of one layer, in scratch, to t of the next; turns c, at a distance `keep` from the marks, to s'' u c."""
    tl.debug_barrier()
    right_ptr += layer * plane
    mark_ptr += layer * plane
    offs = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    mark = tl.load(mark_ptr + offs)
    u = product(right_ptr, table_ptr, layer, False, STRIDE, STRIDE == WIDTH, WIDTH, ROWS, WIDTH, CHUNK)
    if ACTIVATION != "straight":
        bent = bend_of(mark, ACTIVATION) * u * tl.load(mark_ptr + keep + offs)
        tl.debug_barrier()
        tl.store(mark_ptr + keep + offs, bent)
    tl.store(right_ptr + plane + offs, slope_of(mark, slope, ACTIVATION) * u)


@triton.jit
def pull(
    left_ptr,
    mark_ptr,
    table_ptr,
    layers,
    plane,
    seed,
    keep,
    add,
    slope,
    LOSS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """From the derivative by the last layer's output, in scratch or (seed, for one output), to that by every z.

    keep: the distance from a mark to where the derivative by h shall be kept, or 0.
    add: the distance from a mark to a further term, or 0.
    """
    offs = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    top = layers - 1
    if LOSS == "wasserstein":
        weight_ptr, _, inputs, _, _ = layer_at(table_ptr, top)
        offs_o = tl.arange(0, WIDTH)
        w = tl.load(weight_ptr + offs_o, mask=offs_o < inputs, other=0.0)
        c = seed[:, None] * w[None, :]
        mark = tl.load(mark_ptr + (top - 1) * plane + offs)
    else:
        tl.debug_barrier()
        mark = tl.load(mark_ptr + (top - 1) * plane + offs)
        c = product(left_ptr + top * plane, table_ptr, top, True, STRIDE, False, WIDTH, ROWS, WIDTH, CHUNK)
    pass_activation(
        left_ptr + (top - 1) * plane, mark_ptr + (top - 1) * plane, mark, c, offs, keep, add, slope, ACTIVATION
    )
    for index in range(1, top):
        layer = top - index
        tl.debug_barrier()
        mark = tl.load(mark_ptr + (layer - 1) * plane + offs)
        c = product(
            left_ptr + layer * plane, table_ptr, layer, True, STRIDE, STRIDE == WIDTH, WIDTH, ROWS, WIDTH, CHUNK
        )
        pass_activation(
            left_ptr + (layer - 1) * plane, mark_ptr + (layer - 1) * plane, mark, c, offs, keep, add, slope, ACTIVATION
        )


@triton.jit
def pass_activation(left_ptr, mark_ptr, mark, c, offs, keep, add, slope, ACTIVATION: tl.constexpr):
    derivative = slope_of(mark, slope, ACTIVATION) * c
    if ACTIVATION != "straight":
        if keep != 0:
            tl.store(mark_ptr + keep + offs, c)
        if add != 0:
            derivative += tl.load(mark_ptr + add + offs)
    tl.store(left_ptr + offs, derivative)


@triton.jit(do_not_specialize=["batch", "points", "features", "conditions", "layers", "ends", "between"])
def critic_kernel(
    real_ptr,
    fake_ptr,
    condition_ptr,
    eps_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    table_ptr,
    scratch_ptr,
    norm_ptr,
    part_ptr,
    batch,
    points,
    features,
    conditions,
    layers,
    ends,
    between,
    weight,
    target,
    slope,
    LOSS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ONE_SIDED: tl.constexpr,
    STRIDE: tl.constexpr,
    INPUT: tl.constexpr,
    OUTPUT: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    FORWARD: tl.constexpr,
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """Everything that belongs to one row. Tiles of points between come first, since they take longest.

    rows (B, D), conditions (B, C), coefficients and eps as in `Rows`; table (L, 6), see `_table`; scratch (planes,
    ends + 2 between, WIDTH); norm (P,); part: a penalty of each tile between, a distance of each other tile.
    """
    BENT: tl.constexpr = ACTIVATION != "straight"
    STEP: tl.constexpr = 2 if LOSS == "energy" else 1
    tile = tl.program_id(0)
    inside = tile < between // ROWS
    first = tile * ROWS - tl.where(inside, 0, between)
    plane = (ends + 2 * between).to(tl.int64) * WIDTH
    # Offsets of this tile's rows with h and r, and with t and s.
    row_h = (first + tl.where(inside, ends + between, 0)).to(tl.int64) * WIDTH
    row_s = (first + ends).to(tl.int64) * WIDTH
    right_ptr = scratch_ptr
    left_ptr = right_ptr + (layers + 1) * plane
    # What tells s'(z): for piecewise linear activations h itself.
    mark_ptr = left_ptr + layers * plane if BENT else right_ptr + plane
    offs_r = tl.arange(0, ROWS)
    offs_i = tl.arange(0, INPUT)
    offs_w = tl.arange(0, WIDTH)
    offs_o = tl.arange(0, OUTPUT)
    tile_i = offs_r[:, None] * WIDTH + offs_i[None, :]
    tile_w = offs_r[:, None] * WIDTH + offs_w[None, :]
    tile_o = offs_r[:, None] * WIDTH + offs_o[None, :]
    index = first + offs_r
    within = tl.full((ROWS,), tile, tl.int32) < between // ROWS
    valid = index < tl.where(inside, points, 2 * batch)
    generated = index >= batch
    row = tl.where(inside, index * STEP, tl.where(generated, index - batch, index))

    if FORWARD:
        # The input: a row or a point between two, its conditions beside it.
        mask = valid[:, None] & (offs_i < features)[None, :]
        offs = row.to(tl.int64)[:, None] * features + offs_i[None, :]
        x = tl.load(real_ptr + offs, mask=mask & (within | (index < batch))[:, None], other=0.0)
        y = tl.load(fake_ptr + offs, mask=mask & (within | generated)[:, None], other=0.0)
        eps = tl.load(eps_ptr + index, mask=valid & within, other=0.0)[:, None]
        x = tl.where(inside, eps * x + (1 - eps) * y, tl.where(generated[:, None], y, x))
        offs_c = offs_i[None, :] - features
        mask = valid[:, None] & (offs_c >= 0) & (offs_c < conditions)
        x += tl.load(condition_ptr + row.to(tl.int64)[:, None] * conditions + offs_c, mask=mask, other=0.0)
        tl.store(right_ptr + row_h + tile_i, x)
        forward_layer(
            right_ptr + row_h, mark_ptr + row_h, table_ptr, 0, plane, slope, ACTIVATION, 0, ROWS, WIDTH, CHUNK,
        )  # fmt: skip
        for layer in range(1, layers - 1):
            forward_layer(
                right_ptr + row_h, mark_ptr + row_h, table_ptr, layer, plane, slope, ACTIVATION, STRIDE, ROWS, WIDTH,
                CHUNK,
            )  # fmt: skip
        tl.debug_barrier()
        if LOSS != "wasserstein":
            _, bias_ptr, _, _, biases = layer_at(table_ptr, layers - 1)
            z = product(
                right_ptr + (layers - 1) * plane + row_h, table_ptr, layers - 1, False, STRIDE, False, OUTPUT, ROWS,
                WIDTH, CHUNK,
            )  # fmt: skip
            z += tl.load(bias_ptr + offs_o, mask=offs_o < biases, other=0.0)[None, :]
            tl.store(right_ptr + layers * plane + row_h + tile_o, z)

    # The derivative of what is pulled back: the penalised function between, the loss at the other rows.
    top_ptr = left_ptr + (layers - 1) * plane
    seed = valid.to(tl.float32)
    pulled = row_s
    if LOSS == "wasserstein":
        a = tl.load(a_ptr + index, mask=valid & (index < batch), other=0.0)
        b = tl.load(b_ptr + index - batch, mask=valid & generated, other=0.0)
        pulled = tl.where(inside, row_s, row_h)
        seed = tl.where(inside, seed, b - a)
        tl.store(top_ptr + pulled + offs_r * WIDTH, seed)
        if not inside:
            weight_ptr, bias_ptr, inputs, _, biases = layer_at(table_ptr, layers - 1)
            w = tl.load(weight_ptr + offs_w, mask=offs_w < inputs, other=0.0)
            h = tl.load(right_ptr + (layers - 1) * plane + row_h + tile_w)
            score = tl.sum(h * w[None, :], axis=1) + tl.load(bias_ptr, mask=biases > 0, other=0.0)
            tl.store(part_ptr + tile, tl.sum((a - b) * score, axis=0))
    elif REVERSE:
        near = tl.where(valid, batch + (row ^ 1), 0).to(tl.int64)[:, None] * WIDTH + offs_o[None, :]
        far = tl.where(valid, row ^ 1, 0).to(tl.int64)[:, None] * WIDTH + offs_o[None, :]
        h_ptr = right_ptr + layers * plane
        h = tl.load(h_ptr + row_h + tile_o)
        direction = apart(h - tl.load(h_ptr + near))[2]
        if LOSS == "energy":
            direction -= apart(h - tl.load(h_ptr + far))[2]
        else:
            direction -= apart(h)[2]
        tl.store(top_ptr + pulled + tile_o, tl.where(valid[:, None], direction, 0.0))

    if REVERSE:
        pull(
            left_ptr + pulled, mark_ptr + row_h, table_ptr, layers, plane, seed, tl.where(inside, row_s - row_h, 0), 0,
            slope, LOSS, ACTIVATION, STRIDE, ROWS, WIDTH, CHUNK,
        )  # fmt: skip
        if inside:
            # The gradient by the features, its norm, the penalty, and v, along which the tangent is taken.
            tl.debug_barrier()
            g = product(left_ptr + row_s, table_ptr, 0, True, 0, False, INPUT, ROWS, WIDTH, CHUNK)
            g = tl.where((offs_i < features)[None, :], g, 0.0)
            norm = tl.sqrt(tl.sum(g * g, axis=1))
            tl.store(norm_ptr + index, norm, mask=valid)
            excess = norm - target
            if ONE_SIDED:
                excess = tl.maximum(excess, 0.0)
            weighted = tl.load(c_ptr + index, mask=valid, other=0.0) * excess
            tl.store(part_ptr + tile, tl.sum(weighted * excess, axis=0))
            factor = tl.where(norm > 0, 2 * weight * weighted / tl.where(norm > 0, norm, 1.0), 0.0)
            tl.store(right_ptr + row_s + tile_i, factor[:, None] * g)
            tangent_layer(
                right_ptr + row_s, mark_ptr + row_h, table_ptr, 0, plane, row_s - row_h, slope, ACTIVATION, 0, ROWS,
                WIDTH, CHUNK,
            )  # fmt: skip
            for layer in range(1, layers - 1):
                tangent_layer(
                    right_ptr + row_s, mark_ptr + row_h, table_ptr, layer, plane, row_s - row_h, slope, ACTIVATION,
                    STRIDE, ROWS, WIDTH, CHUNK,
                )  # fmt: skip
            if LOSS != "wasserstein":
                tl.debug_barrier()
                u = product(
                    right_ptr + (layers - 1) * plane + row_s, table_ptr, layers - 1, False, STRIDE, False, OUTPUT, ROWS,
                    WIDTH, CHUNK,
                )  # fmt: skip
                tl.store(right_ptr + layers * plane + row_s + tile_o, u)
            elif BENT:
                tl.store(top_ptr + row_h + offs_r * WIDTH, seed * 0.0)
                tl.debug_barrier()
                pull(
                    left_ptr + row_h, mark_ptr + row_h, table_ptr, layers, plane, seed * 0.0, 0, row_s - row_h,
                    slope, LOSS, ACTIVATION, STRIDE, ROWS, WIDTH, CHUNK,
                )  # fmt: skip

    if ADJOINT:
        # The derivative by a row's embedding x. At a point between, of the penalty alone; at a real or generated row
        # by_... times the direction from its partner, from the partner's counterpart, from the origin, and times what
        # its point between sends it. of_... are the factors of these lengths in the distance.
        h_ptr = right_ptr + layers * plane
        x = tl.load(h_ptr + row_h + tile_o)
        if inside:
            near = tl.where(valid, batch + (row ^ 1), 0).to(tl.int64)[:, None] * WIDTH + offs_o[None, :]
            far = tl.where(valid, row ^ 1, 0).to(tl.int64)[:, None] * WIDTH + offs_o[None, :]
            t = tl.load(h_ptr + row_s + tile_o)
            _, inverse, direction = apart(x - tl.load(h_ptr + near))
            r = turned(direction, inverse, t)
            if LOSS == "energy":
                _, inverse, direction = apart(x - tl.load(h_ptr + far))
            else:
                _, inverse, direction = apart(x)
            r -= turned(direction, inverse, t)
            tl.store(top_ptr + row_h + tile_o, tl.where(valid[:, None], r, 0.0))
        else:
            point = row // 2 if LOSS == "energy" else row ^ 1
            partner = tl.where(valid, index ^ 1, 0).to(tl.int64)[:, None] * WIDTH + offs_o[None, :]
            cross = tl.where(valid, (row ^ 1) + tl.where(generated, 0, batch), 0).to(tl.int64)[:, None]
            t_at = (ends + tl.where(valid, point, 0)).to(tl.int64)[:, None] * WIDTH + offs_o[None, :]
            real = tl.where(generated, 0.0, 1.0)
            if LOSS == "energy":
                a = tl.load(a_ptr + point, mask=valid, other=0.0)
                even = tl.where(row % 2 == 0, 1.0, 0.0)
                by_partner, by_cross, by_origin = a, -a, a * 0.0
                by_point = (1 - even) * (2 * real - 1)
                of_partner, of_cross, of_origin = -a * even, a * real, a * 0.0
            else:
                a = tl.load(a_ptr + tl.where(generated, point, row), mask=valid, other=0.0)
                b = tl.load(b_ptr + row, mask=valid & generated, other=0.0)
                b_partner = tl.load(b_ptr + point, mask=valid & generated, other=0.0)
                by_partner, by_cross, by_origin = b + b_partner, -a, a * real - b
                by_point = real - 1
                of_partner, of_cross, of_origin = -b, a * real, b - a * real
            length, _, direction = apart(x - tl.load(h_ptr + partner))
            distance = of_partner * length
            r = by_partner[:, None] * direction
            length, _, direction = apart(x - tl.load(h_ptr + cross * WIDTH + offs_o[None, :]))
            distance += of_cross * length
            r += by_cross[:, None] * direction
            if LOSS == "surrogate":
                length, _, direction = apart(x)
                distance += of_origin * length
                r += by_origin[:, None] * direction
            t = tl.load(h_ptr + t_at)
            _, inverse, direction = apart(x - tl.load(h_ptr + between.to(tl.int64) * WIDTH + t_at))
            r += by_point[:, None] * turned(direction, inverse, t)
            tl.store(part_ptr + tile, tl.sum(tl.where(valid, distance, 0.0), axis=0))
            tl.store(top_ptr + row_h + tile_o, tl.where(valid[:, None], r, 0.0))
        pull(
            left_ptr + row_h, mark_ptr + row_h, table_ptr, layers, plane, seed, 0, tl.where(inside, row_s - row_h, 0),
            slope, LOSS, ACTIVATION, STRIDE, ROWS, WIDTH, CHUNK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["layers", "ends", "between", "rows", "tiles_between", "tiles", "size"])
def gradient_kernel(
    table_ptr,
    scratch_ptr,
    part_ptr,
    out_ptr,
    layers,
    ends,
    between,
    rows,
    tiles_between,
    tiles,
    size,
    weight,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PART: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """out (parts, size): loss, distance, penalty, and the gradients of all layers, of the rows of each part."""
    layer = tl.program_id(1)
    part = tl.program_id(2)
    out_ptr += part.to(tl.int64) * size
    if layer == layers:
        if tl.program_id(0) == 0:
            distance, penalty = (
                summed(part_ptr + tiles_between, tiles - tiles_between),
                summed(part_ptr, tiles_between),
            )
            once = tl.where(part == 0, 1.0, 0.0)
            tl.store(out_ptr, once * (weight * penalty - distance))
            tl.store(out_ptr + 1, once * distance)
            tl.store(out_ptr + 2, once * penalty)
    else:
        _, _, inputs, outputs, biases = layer_at(table_ptr, layer)
        across = tl.cdiv(inputs, TILE)
        offs_o = tl.program_id(0) // across * TILE + tl.arange(0, TILE)
        offs_i = tl.program_id(0) % across * TILE + tl.arange(0, TILE)
        if tl.program_id(0) // across * TILE < outputs:
            plane = (ends + 2 * between).to(tl.int64) * WIDTH
            right_ptr = scratch_ptr + layer * plane
            left_ptr = scratch_ptr + (layers + 1 + layer) * plane
            offs_k = tl.arange(0, CHUNK)[:, None]
            acc = tl.zeros((TILE, TILE), tl.float32)
            total = tl.zeros((CHUNK, TILE), tl.float32)
            for start in range(part * PART, tl.minimum((part + 1) * PART, rows), CHUNK):
                at = (start + offs_k).to(tl.int64) * WIDTH
                # Columns beyond the layer's own hold anything; they end in columns that are not stored.
                left = tl.load(left_ptr + at + offs_o[None, :])
                right = tl.load(right_ptr + at + offs_i[None, :])
                acc += dot_float32(tl.trans(left), right)
                # The tangent knows no bias.
                total += tl.where((start < ends) | (start >= ends + between), left, 0.0)
            at = out_ptr + tl.load(table_ptr + layer * 6 + 4)
            mask = (offs_o < outputs)[:, None] & (offs_i < inputs)[None, :]
            tl.store(at + offs_o[:, None] * inputs + offs_i[None, :], acc, mask=mask)
            if tl.program_id(0) % across == 0:
                at = out_ptr + tl.load(table_ptr + layer * 6 + 5)
                tl.store(at + offs_o, tl.sum(total, axis=0), mask=offs_o < biases)


@triton.jit
def summed(values_ptr, count):
    offs = tl.arange(0, 256)
    total = tl.zeros((256,), tl.float32)
    for start in range(0, count, 256):
        total += tl.load(values_ptr + start + offs, mask=start + offs < count, other=0.0)
    return tl.sum(total, axis=0)


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """As the reference, for at least two layers of at most 256 units in float32."""
    real, fake, condition, eps, a, b, c = [value if value is None else value.contiguous() for value in rows]
    assert real is not None
    weights = [weight.detach().contiguous() for weight in perceptron.weights]
    biases = [bias if bias is None else bias.detach().contiguous() for bias in perceptron.biases]
    (batch, features), points, layers = real.shape, len(rows.eps), len(weights)
    table, views, size = _table(
        tuple(weight.data_ptr() for weight in weights),
        tuple(0 if bias is None else bias.data_ptr() for bias in biases),
        tuple(weight.shape for weight in weights),
        real.device,
    )
    plan = _plan(
        (perceptron.inputs, *(len(weight) for weight in weights)),
        all(weight.data_ptr() % 16 == 0 for weight in weights),
        perceptron.activation,
        loss.kind,
        loss.one_sided,
        batch,
        points,
        real.device,
    )
    scratch, sums, norm_P = real.new_empty(plan.scratch), real.new_empty(plan.tiles), real.new_empty(points)
    for tiles, constants, options in plan.launches:
        critic_kernel[(tiles,)](
            real, fake, real if condition is None else condition, eps, a, b, c, table, scratch, norm_P, sums,
            batch, points, features, 0 if condition is None else condition.shape[1], layers, plan.ends, plan.between,
            loss.weight, loss.target, perceptron.slope, **constants, **options,
        )  # fmt: skip
    out = real.new_empty(plan.grid[2], size)
    gradient_kernel[plan.grid](
        table, scratch, sums, out, layers, plan.ends, plan.between, plan.used, plan.between // plan.rows, plan.tiles,
        size, loss.weight, **plan.constants, **plan.options,
    )  # fmt: skip
    flat = out.view(-1) if len(out) == 1 else out.sum(0)
    gradients = tuple(flat.as_strided(shape, stride, at) for shape, stride, at in views)
    return CriticStep(flat[0], flat[1], flat[2], norm_P, gradients)


class _Plan(NamedTuple):
    """What the sizes of a problem decide.

    Attributes:
        rows: of a tile.
        ends: real and generated rows, padded.
        between: points between, padded.
        used: rows that have a part in the gradients.
        tiles: of all rows.
        scratch: numbers of scratch memory.
        launches: of `critic_kernel`: tiles, compile-time arguments, options of the compiler.
        grid, constants, options: of `gradient_kernel`.
    """

    rows: int
    ends: int
    between: int
    used: int
    tiles: int
    scratch: int
    launches: list[tuple[int, dict[str, Any], dict[str, Any]]]
    grid: tuple[int, int, int]
    constants: dict[str, Any]
    options: dict[str, Any]


@lru_cache(maxsize=256)
def _plan(
    sizes: tuple[int, ...],
    aligned: bool,
    activation: str,
    kind: str,
    one_sided: bool,
    batch: int,
    points: int,
    device: torch.device,
) -> _Plan:
    bent, layers = activation not in STRAIGHT, len(sizes) - 1
    whole, ends = kind in ("wasserstein", PENALTY), 0 if kind == PENALTY else 2 * batch
    # Many rows would spill before Hopper, and in the longest kernel, all passes with second derivatives.
    spill = (bent and whole) or _before_hopper(device)
    rows = FEW_ROWS if spill or ends + points <= FEW else MANY_ROWS
    # Every chunk of rows that a gradient sums is of one kind.
    ends, between = (_cdiv(n, PART_CHUNK) * PART_CHUNK for n in (ends, points))
    tiles = (ends + between) // rows
    launches = []
    for forward, reverse, adjoint in PHASES[kind]:
        constants = specialisation(sizes, aligned, activation, kind, one_sided, rows)
        constants |= {"FORWARD": forward, "REVERSE": reverse, "ADJOINT": adjoint}
        count = between // rows if reverse and not forward else tiles
        launches.append((count, constants, critic_options(constants["WIDTH"])))
    width = launches[0][1]["WIDTH"]
    planes = 2 * layers + 1 + (layers - 1 if bent else 0)
    used = ends + between * (2 if bent or not whole else 1)
    blocks = max(_cdiv(outputs, TILE) * _cdiv(inputs, TILE) for inputs, outputs in pairwise(sizes))
    return _Plan(
        rows,
        ends,
        between,
        used,
        tiles,
        planes * (ends + 2 * between) * width,
        launches,
        (blocks, layers + 1, _cdiv(used, PART)),
        {"WIDTH": width, "TILE": TILE, "PART": PART, "CHUNK": PART_CHUNK},
        gradient_options(),
    )


def _before_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0)


def specialisation(
    sizes: tuple[int, ...], aligned: bool, activation: str, kind: str, one_sided: bool, rows: int
) -> dict[str, Any]:
    """The compile-time arguments of `critic_kernel` but for what a launch does."""
    padded = [max(CHUNK, 1 << (units - 1).bit_length()) for units in sizes]
    hidden = set(sizes[1:-1])
    alike = aligned and len(hidden) == 1 and max(hidden) % 4 == 0
    return {
        "LOSS": "wasserstein" if kind == PENALTY else kind,
        "ACTIVATION": "straight" if activation in STRAIGHT else activation,
        "ONE_SIDED": one_sided,
        "STRIDE": max(hidden) if alike else 0,
        "INPUT": padded[0],
        "OUTPUT": padded[-1],
        "WIDTH": max(TILE, *padded),
        "ROWS": rows,
        "CHUNK": CHUNK,
    }


def critic_options(width: int) -> dict[str, Any]:
    """How `critic_kernel` is compiled: wide tiles need the registers of more warps."""
    return {"num_warps": 4 if width <= 128 else 8, "num_stages": 3, "enable_fp_fusion": True}


def gradient_options() -> dict[str, Any]:
    """How `gradient_kernel` is compiled."""
    return {"num_warps": 2, "num_stages": 3, "enable_fp_fusion": True}


@lru_cache(maxsize=64)
def _table(
    weights: tuple[int, ...], biases: tuple[int, ...], shapes: tuple[torch.Size, ...], device: torch.device
) -> tuple[Tensor, list[tuple[tuple[int, ...], tuple[int, ...], int]], int]:
    """Addresses of weight and bias, inputs, outputs, and where their gradients lie, (L, 6), on the device.

    Beside it the shape, strides and place of every gradient, and the length of all. Made before a CUDA graph is
    captured, by the call that warms up: a capture admits no copy from the host.
    """
    table, views, size = [], [], HEADER
    for weight, bias, (outputs, inputs) in zip(weights, biases, shapes, strict=True):
        table.append([weight, bias, inputs, outputs, size, size + _round_up(outputs * inputs)])
        views.append(((outputs, inputs), (inputs, 1), size))
        size += _round_up(outputs * inputs)
        if bias:
            views.append(((outputs,), (1,), size))
            size += _round_up(outputs)
    return torch.tensor(table, dtype=torch.int64).to(device), views, size


def _round_up(numbers: int) -> int:
    """To multiples of 16 bytes, for an optimiser that reads gradients in such."""
    return _cdiv(numbers, 4) * 4


def _cdiv(a: int, b: int) -> int:
    # Triton's own costs microseconds.
    return -(-a // b)
