"""Backend `cpu`: compiled by Numba on first use.

A piecewise linear critic's step is one compiled function: a few rows of the batch go through all layers while their
values and the weights stay in the caches, threads share the batch, and the gradients of their parts are added in a
fixed order. Activations that bend run as in `tiled.py`, whose exponentials are PyTorch's, with all that concerns single
rows compiled. Shapes: B rows of a block, P points of the penalty, N = 2 B + P, D features, O outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor_kernels import threads
from kantor_kernels.compiling import jit
from kantor_kernels.cpu_products import COLUMNS, multiply, multiply_add, transpose
from kantor_kernels.critic_step.problem import COMPARED, PENALTY, CriticStep, Loss, Perceptron, Rows
from kantor_kernels.critic_step.tiled import Buffers, Compared, by_blocks, reused
from kantor_kernels.threads import run_parts

unflatten_dense_tensors: Any = torch._C._nn.unflatten_dense_tensors  # pyright: ignore[reportAttributeAccessIssue]
_WASSERSTEIN, _ENERGY, _SURROGATE, _ALONE, _COMPARED = range(5)
KINDS = {
    "wasserstein": _WASSERSTEIN,
    "energy": _ENERGY,
    "surrogate": _SURROGATE,
    PENALTY: _ALONE,
    COMPARED: _COMPARED,
}
# Rows of the batch that go through all layers together, even: three times as many values of each layer, or four. Of a
# penalty alone, one value a row, three times as many rows.
PANEL = 16
# Not "nnan" or "ninf": a NaN must come out as a NaN.
_jit = jit(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")
# Operations of a matrix product in the time of a pair of points, by which threads are counted.
_OPERATIONS_PER_PAIR = 100


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """As the reference."""
    if not perceptron.straight:
        return by_blocks(perceptron, rows, loss, _Bending)
    with torch.no_grad():
        step = step_for(perceptron)
        return (step.compare if loss.kind == COMPARED else step.run)(perceptron, rows, loss)


def values(perceptron: Perceptron, x_NI: Tensor) -> Tensor:
    """As `reference.values`; a row's values do not depend on the rows beside it, nor on the threads."""
    return step_for(perceptron).forward(perceptron, x_NI)


# How a perceptron and its values lie in memory, level by level: level 0 is the input, level l what layer l gives.
_SIZE, _COLUMNS, _AT, _WEIGHTS, _TRANSPOSED, _BY_WEIGHT, _BY_BIAS = range(7)


class _Step:
    """The layout of a perceptron, and buffers that the next step of this thread uses again.

    Everything is flat, one layer after the other: W_l (out, in), W_l^T (in, out), biases, and for each part of the
    batch its values, cotangents and gradients. Columns are padded to whole cache lines; what stands in the padding is
    never read into a sum.
    """

    def __init__(self, perceptron: Perceptron, parts: int) -> None:
        dtype, levels = perceptron.weights[0].dtype, len(perceptron.weights) + 1
        self.layout = np.zeros((levels, 7), np.int64)
        at = np.zeros(7, np.int64)
        for level, size in enumerate([perceptron.inputs, *(len(w) for w in perceptron.weights)]):
            columns = _padded(size)
            self.layout[level] = size, columns, *at[_AT:]
            at[_AT] += columns
            if level == levels - 1:
                break
            outputs, bias = perceptron.weights[level].shape[0], perceptron.biases[level]
            at[_WEIGHTS] += outputs * columns
            at[_TRANSPOSED] += size * _padded(outputs)
            # In the caller's tensor of all gradients, in the order of the parameters.
            self.layout[level, _BY_WEIGHT] = at[_BY_WEIGHT]
            at[_BY_WEIGHT] += outputs * size
            self.layout[level, _BY_BIAS] = -1 if bias is None else at[_BY_WEIGHT]
            at[_BY_WEIGHT] += 0 if bias is None else outputs
        _, _, values, weights, transposed, self.numbers, _ = at.tolist()

        def zeros(*shape: int) -> Any:
            return torch.zeros(shape, dtype=dtype).numpy()

        self.weights, self.transposed, self.biases = zeros(weights), zeros(transposed), zeros(values)
        self.values, self.cotangents = zeros(parts, 4 * PANEL * values), zeros(parts, 4 * PANEL * values)
        self.scratch = zeros(parts, 3 * PANEL * int(self.layout[:, _COLUMNS].max()))
        self.by_weights, self.by_biases = zeros(parts, weights), zeros(parts, values)
        self.totals = np.zeros((parts, 3))
        # All parameters in their order, and each of them in there.
        self.parameters = zeros(self.numbers)
        self._like = [torch.empty_like(p) for p in perceptron.parameters()]
        self.copies = self.views(torch.from_numpy(self.parameters))

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's part of a row of all of them."""
        return list(unflatten_dense_tensors(flat, self._like))

    def copy(self, perceptron: Perceptron) -> None:
        """Copy the parameters, as they are: into rows of padded columns PyTorch would take many times as long."""
        torch._foreach_copy_(self.copies, perceptron.parameters())  # pyright: ignore[reportPrivateImportUsage]

    def forward(self, perceptron: Perceptron, x_NI: Tensor) -> Tensor:
        self.copy(perceptron)
        out_NO = x_NI.new_empty(len(x_NI), perceptron.outputs)
        _whole_forward(
            *self.threads(2 * len(x_NI)), _array(x_NI), out_NO.numpy(),
            self.layout, self.parameters, self.weights, self.transposed, self.biases, perceptron.slope, self.values,
        )  # fmt: skip
        return out_NO

    def run(self, perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
        self.copy(perceptron)
        conditions = rows.real[:, :0] if rows.conditions is None else rows.conditions
        norm_P = torch.empty_like(rows.eps)
        gradients, total_3 = rows.real.new_empty(self.numbers), rows.real.new_empty(3)
        # Products of each row with all weights, a multiplication and an addition each.
        products = 8 if loss.kind == PENALTY else 20
        whole_step(
            *self.threads(products * len(rows.real)), self.layout, self.parameters, self.weights, self.transposed,
            self.biases, perceptron.slope, KINDS[loss.kind], loss.weight, loss.target, loss.one_sided,
            *map(_array, (rows.real, rows.fake, conditions, *rows[3:], norm_P)),
            self.values, self.cotangents, self.scratch, self.by_weights, self.by_biases, self.totals,
            gradients.numpy(), total_3.numpy(),
        )  # fmt: skip
        total, distance, penalty = total_3.unbind()
        by_parameter = self.views(gradients)
        return CriticStep(total, distance, penalty, norm_P, tuple(by_parameter))

    def compare(self, perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
        """The step in three compiled parts, between which all embeddings are compared; all panels' values stay."""
        self.copy(perceptron)
        b, o, parts = len(rows.real), perceptron.outputs, len(self.totals)
        conditions = rows.real[:, :0] if rows.conditions is None else rows.conditions
        shape = -(-b // PANEL), self.values.shape[1] // 4 * 3
        key = "stored", shape, rows.real.dtype, *(w.shape for w in perceptron.weights)
        stored = reused(key, lambda: rows.real.new_zeros(shape).numpy())
        embeddings, adjoints = rows.real.new_empty(3, b, o), rows.real.new_empty(3, b, o)
        slope_BO, t_BO, norm_B = (torch.empty_like(like) for like in (adjoints[0], adjoints[0], rows.eps))
        gradients = rows.real.new_empty(self.numbers)
        starter, threads = self.threads(24 * b)

        layout = self.layout, self.weights, self.transposed, self.biases
        batch = tuple(map(_array, (rows.real, rows.fake, conditions, rows.eps)))
        _embed(starter, threads, parts, self.parameters, *layout, perceptron.slope, *batch, stored, embeddings.numpy())
        head = Compared(embeddings.unbind(), adjoints.unbind(), slope_BO)
        head.start(loss)
        _look(
            starter, threads, *layout, perceptron.slope, loss.weight, loss.target, loss.one_sided,
            rows.real.shape[1], slope_BO.numpy(), _array(rows.penalty_coefficients), norm_B.numpy(),
            stored, self.values, self.cotangents, self.scratch, self.by_weights, self.by_biases, self.totals,
            t_BO.numpy(),
        )  # fmt: skip
        distance = head.finish(rows, t_BO).to(rows.real.dtype)
        _descend(
            starter, threads, *layout, perceptron.slope, adjoints.numpy(),
            stored, self.cotangents, self.by_weights, self.by_biases, gradients.numpy(),
        )  # fmt: skip
        penalty = rows.real.new_tensor(self.totals[:, 2].sum())
        by_parameter = self.views(gradients)
        return CriticStep(loss.weight * penalty - distance, distance, penalty, norm_B, tuple(by_parameter))

    def threads(self, products: int) -> tuple[int, int]:
        """How threads are started and how many, for so many operations with each weight."""
        return threads.starter(), threads.how_many(products * self.by_weights.shape[1] / _OPERATIONS_PER_PAIR)


def _padded(size: int) -> int:
    return -(-size // COLUMNS) * COLUMNS


def step_for(perceptron: Perceptron) -> _Step:
    parts = torch.get_num_threads()
    biased = tuple(bias is not None for bias in perceptron.biases)
    key = (_Step, tuple(w.shape for w in perceptron.weights), biased, perceptron.weights[0].dtype, parts)
    return reused(key, lambda: _Step(perceptron, parts))


class _Bending(Buffers):
    """`Buffers` with what concerns single rows compiled."""

    def __init__(self, perceptron: Perceptron, b: int, features: int, kind: str) -> None:
        super().__init__(perceptron, b, features, kind)
        self.kind = KINDS[kind]
        self.x, self.g, self.v = self.values[0].numpy(), self.g_PD.numpy(), self.t[0].numpy()
        self.ends = [parts[-1].numpy() for parts in (self.h, self.r, self.s, self.t)]

    def load(self, rows: Rows) -> None:
        conditions = rows.real[:, :0] if rows.conditions is None else rows.conditions
        _load(self.x, _array(rows.real), _array(rows.fake), _array(conditions), _array(rows.eps), self.b)

    def start(self, loss: Loss) -> None:
        if self.kind == _COMPARED:
            super().start(loss)
            return
        h, _, s, _ = self.ends
        _start(h, s, self.kind, self.b)

    def finish(self, rows: Rows, total_3: Tensor) -> None:
        if self.kind == _COMPARED:
            super().finish(rows, total_3)
            return
        h, r, _, t = self.ends
        a, b = _array(rows.coefficients), _array(rows.fake_coefficients)
        _finish(h, r, t, a, b, self.kind, self.merged, total_3.numpy())

    def penalise(self, coefficient_P: Tensor, loss: Loss, norm_P: Tensor, total_3: Tensor) -> None:
        coefficients, norms, total = _array(coefficient_P), norm_P.numpy(), total_3.numpy()
        _penalise(self.g, coefficients, loss.weight, loss.target, loss.one_sided, norms, self.v, total)


def _array(tensor: Tensor) -> Any:
    return tensor.contiguous().numpy()


# The layout


@_jit
def _rows_at(flat: Any, layout: Any, level: int, rows: int) -> Any:
    """Values or cotangents of a level, or with one row its biases."""
    first, columns = rows * layout[level, _AT], layout[level, _COLUMNS]
    return flat[first : first + rows * columns].reshape(rows, columns)


@_jit
def _weights_at(flat: Any, layout: Any, level: int) -> Any:
    """The weights above a level, or their gradient."""
    first, rows, columns = layout[level, _WEIGHTS], layout[level + 1, _SIZE], layout[level, _COLUMNS]
    return flat[first : first + rows * columns].reshape(rows, columns)


@_jit
def _transposed_at(flat: Any, layout: Any, level: int) -> Any:
    first, rows, columns = layout[level, _TRANSPOSED], layout[level, _SIZE], layout[level + 1, _COLUMNS]
    return flat[first : first + rows * columns].reshape(rows, columns)


@_jit
def _lay_out(
    part: int, parts: int, parameters: Any, weights: Any, transposed: Any, biases: Any, layout: Any
) -> None:  # fmt: skip
    """This part of the parameters, weights both ways; a layer without a bias keeps zeros."""
    for level in range(len(layout) - 1):
        w, across = _weights_at(weights, layout, level), _transposed_at(transposed, layout, level)
        inputs, bias = layout[level, _SIZE], _rows_at(biases, layout, level + 1, 1)[0]
        first, last = _rows_of_part(part, parts, len(w), COLUMNS)
        for i in range(first, last):
            here = layout[level, _BY_WEIGHT] + i * inputs
            w[i, :inputs] = parameters[here : here + inputs]
            if layout[level, _BY_BIAS] >= 0:
                bias[i] = parameters[layout[level, _BY_BIAS] + i]
        transpose(across[:, first:], w[first:last])


@_jit
def _add_up(part: int, by_weights: Any, by_biases: Any, layout: Any, gradients: Any) -> None:
    """This part of the sums over all parts, in the caller's layout."""
    for level in range(len(layout) - 1):
        start, stop = _rows_of_part(part, len(by_weights), layout[level + 1, _SIZE], 1)
        for i in range(start, stop):
            first = layout[level, _BY_WEIGHT] + i * layout[level, _SIZE]
            here = layout[level, _WEIGHTS] + i * layout[level, _COLUMNS]
            _add_row(by_weights, here, gradients[first : first + layout[level, _SIZE]])
        first = layout[level, _BY_BIAS]
        if first >= 0:
            here = layout[level + 1, _AT]
            _add_row(by_biases, here + start, gradients[first + start : first + stop])


@_jit
def _rows_of_part(part: int, parts: int, rows: int, together: int) -> tuple[int, int]:
    """First and last of the rows of a part, where so many stay together."""
    groups = -(-rows // together)
    return min(rows, together * (groups * part // parts)), min(rows, together * (groups * (part + 1) // parts))


@_jit
def _add_row(parts: Any, here: int, out: Any) -> None:
    row = parts[0, here : here + len(out)]
    if len(parts) == 1:
        for j in range(len(out)):
            out[j] = row[j]
        return
    other = parts[1, here : here + len(out)]
    for j in range(len(out)):
        out[j] = row[j] + other[j]
    for part in range(2, len(parts)):
        other = parts[part, here : here + len(out)]
        for j in range(len(out)):
            out[j] += other[j]


# Layers


@_jit
def whole_step(
    starter: int, threads: int, layout: Any, parameters: Any, weights: Any, transposed: Any, biases: Any,
    slope: float, kind: int, weight: float, target: float, one_sided: bool,
    real: Any, fake: Any, conditions: Any, eps: Any, a: Any, b: Any, c: Any, norms: Any,
    values: Any, cotangents: Any, scratch: Any, by_weights: Any, by_biases: Any, totals: Any,
    gradients: Any, total: Any,
) -> None:  # fmt: skip
    """Gradients by the parameters, norms, and loss, distance and penalty as `total`."""
    parts = len(totals)
    run_parts(starter, threads, parts, _lay_out, (parts, parameters, weights, transposed, biases, layout))
    arguments = (
        layout, weights, transposed, biases, slope, kind, kind in (_WASSERSTEIN, _ALONE), weight, target, one_sided,
        real, fake, conditions, eps, a, b, c, norms,
        values, cotangents, scratch, by_weights, by_biases, totals,
    )  # fmt: skip
    run_parts(starter, threads, parts, _part_of_step, arguments)
    run_parts(starter, threads, parts, _add_up, (by_weights, by_biases, layout, gradients))
    for i in range(len(total)):
        total[i] = totals[:, i].sum()


@_jit
def _part_of_step(
    part: int, layout: Any, weights: Any, transposed: Any, biases: Any, slope: float,
    kind: int, merged: bool, weight: float, target: float, one_sided: bool,
    real: Any, fake: Any, conditions: Any, eps: Any, a: Any, b: Any, c: Any, norms: Any,
    values: Any, cotangents: Any, scratch: Any, by_weights: Any, by_biases: Any, totals: Any,
) -> None:  # fmt: skip
    """Gradients, norms and totals of this part of the batch, a panel after the other."""
    by_biases[part] = 0
    totals[part] = 0
    start, stop = _rows_of_part(part, len(totals), len(real), PANEL)
    if start == stop:
        by_weights[part] = 0
    pair = 2 if kind == _ENERGY else 1
    panel = 3 * PANEL if kind == _ALONE else PANEL
    for first in range(start, stop, panel):
        last = min(first + panel, stop)
        p, q = first // pair, last // pair
        _panel(
            layout, weights, transposed, biases, slope, kind, merged, weight, target, one_sided,
            real[first:last], fake[first:last], conditions[first:last], eps[p:q], a[p:q], b[p:q], c[p:q], norms[p:q],
            values[part], cotangents[part], scratch[part], by_weights[part], by_biases[part], totals[part],
            first > start,
        )  # fmt: skip


@_jit
def _panel(
    layout: Any, weights: Any, transposed: Any, biases: Any, slope: float,
    kind: int, merged: bool, weight: float, target: float, one_sided: bool,
    real: Any, fake: Any, conditions: Any, eps: Any, a: Any, b: Any, c: Any, norms: Any,
    values: Any, cotangents: Any, scratch: Any, by_weights: Any, by_biases: Any, total: Any, add: bool,
) -> None:  # fmt: skip
    """The steps of `tiled.Buffers.step`, where the letters h, r, s, t, u, g, v and `merged` are explained."""
    top, points, ends = len(layout) - 1, len(eps), 0 if kind == _ALONE else len(real)
    between, rows = 2 * ends, 2 * ends + points
    tangents = between if merged else rows
    every = tangents + points
    biased = between if merged else rows
    x, outputs = _rows_at(values, layout, 0, every), layout[top, _SIZE]
    _load(x, real, fake, conditions, eps, ends)

    _up(layout, transposed, biases, slope, values, every, rows)

    h, r = _rows_at(values, layout, top, every), _rows_at(cotangents, layout, top, every)
    _start(h[:rows, :outputs], r[tangents:, :outputs], kind, ends)
    if merged:
        _finish(h[:rows, :outputs], r[:rows, :outputs], h[tangents:, :outputs], a, b, kind, merged, total)
        _reverse(layout, weights, slope, values, cotangents, every, 0, rows, 0, biased, by_biases)
    else:
        _reverse(layout, weights, slope, values, cotangents, every, tangents, every, between - tangents, 0, by_biases)

    _tangent(
        layout, weights, transposed, slope, values, cotangents, scratch, every, between, tangents,
        c, weight, target, one_sided, real.shape[1], norms, total,
    )  # fmt: skip

    if not merged:
        _top_of_tangent(layout, transposed, values, every, tangents)
        _finish(h[:rows, :outputs], r[:rows, :outputs], h[tangents:, :outputs], a, b, kind, merged, total)
        _reverse(layout, weights, slope, values, cotangents, every, 0, rows, 0, biased, by_biases)

    _collect(layout, values, cotangents, every, 0, by_weights, add)


@_jit
def _tangent(
    layout: Any, weights: Any, transposed: Any, slope: float, values: Any, cotangents: Any, scratch: Any,
    every: int, between: int, tangents: int,
    c: Any, weight: float, target: float, one_sided: bool, features: int, norms: Any, total: Any,
) -> None:  # fmt: skip
    """From s to g, norms and penalty, and from v to t of all layers but the last."""
    points = every - tangents
    g = scratch[: points * layout[0, _COLUMNS]].reshape(points, layout[0, _COLUMNS])
    multiply(g, _rows_at(cotangents, layout, 1, every)[tangents:], _weights_at(weights, layout, 0))
    v = _rows_at(values, layout, 0, every)[tangents:]
    _penalise(g[:, :features], c, weight, target, one_sided, norms, v, total)
    for level in range(len(layout) - 2):
        t, h = _rows_at(values, layout, level, every)[tangents:], _rows_at(values, layout, level + 1, every)
        u = scratch[: points * h.shape[1]].reshape(points, h.shape[1])
        multiply(u, t, _transposed_at(transposed, layout, level))
        _slope(u, h[between : between + points], slope, h[tangents:])


@_jit
def _top_of_tangent(layout: Any, transposed: Any, values: Any, every: int, tangents: int) -> None:
    top = len(layout) - 1
    h, t = _rows_at(values, layout, top, every), _rows_at(values, layout, top - 1, every)[tangents:]
    multiply(h[tangents:], t, _transposed_at(transposed, layout, top - 1))


@_jit
def _collect(
    layout: Any, values: Any, cotangents: Any, every: int, first: int, by_weights: Any, add: bool
) -> None:  # fmt: skip
    """Write or add the gradients of the weights, of the rows from the first on."""
    for level in range(len(layout) - 1):
        r = _rows_at(cotangents, layout, level + 1, every)[first:]
        h = _rows_at(values, layout, level, every)[first:]
        if add:
            multiply_add(_weights_at(by_weights, layout, level), r.T, h)
        else:
            multiply(_weights_at(by_weights, layout, level), r.T, h)


# The step in three parts: `stored` has a row for each panel of the batch, with the values of its 3 b rows.


@_jit
def _embed(
    starter: int, threads: int, parts: int, parameters: Any, layout: Any, weights: Any, transposed: Any, biases: Any,
    slope: float, real: Any, fake: Any, conditions: Any, eps: Any, stored: Any, embeddings: Any,
) -> None:  # fmt: skip
    """The embeddings (3, B, O) of real and generated rows and of the points between."""
    run_parts(starter, threads, parts, _lay_out, (parts, parameters, weights, transposed, biases, layout))
    arguments = parts, layout, transposed, biases, slope, real, fake, conditions, eps, stored, embeddings
    run_parts(starter, threads, parts, _embed_part, arguments)


@_jit
def _embed_part(
    part: int, parts: int, layout: Any, transposed: Any, biases: Any, slope: float,
    real: Any, fake: Any, conditions: Any, eps: Any, stored: Any, embeddings: Any,
) -> None:  # fmt: skip
    start, stop = _rows_of_part(part, parts, len(real), PANEL)
    for first in range(start, stop, PANEL):
        last, mine = min(first + PANEL, stop), stored[first // PANEL]
        b = last - first
        x = _rows_at(mine, layout, 0, 3 * b)
        _load(x, real[first:last], fake[first:last], conditions[first:last], eps[first:last], b)
        _up(layout, transposed, biases, slope, mine, 3 * b, 3 * b)
        h = _rows_at(mine, layout, len(layout) - 1, 3 * b)[:, : embeddings.shape[2]]
        for k in range(3):
            embeddings[k, first:last] = h[k * b : (k + 1) * b]


@_jit
def _look(
    starter: int, threads: int, layout: Any, weights: Any, transposed: Any, biases: Any, slope: float,
    weight: float, target: float, one_sided: bool, features: int, by_between: Any, c: Any, norms: Any,
    stored: Any, values: Any, cotangents: Any, scratch: Any, by_weights: Any, by_biases: Any, totals: Any, t: Any,
) -> None:  # fmt: skip
    """From df / dh at the points between to norms, penalty, tangents of their embeddings, and s t by the weights."""
    arguments = (
        layout, weights, transposed, slope, weight, target, one_sided, features, by_between, c, norms,
        stored, values, cotangents, scratch, by_weights, by_biases, totals, t,
    )  # fmt: skip
    run_parts(starter, threads, len(totals), _look_part, arguments)


@_jit
def _look_part(
    part: int, layout: Any, weights: Any, transposed: Any, slope: float,
    weight: float, target: float, one_sided: bool, features: int, by_between: Any, c: Any, norms: Any,
    stored: Any, values: Any, cotangents: Any, scratch: Any, by_weights: Any, by_biases: Any, totals: Any, t: Any,
) -> None:  # fmt: skip
    by_biases[part] = 0
    totals[part] = 0
    top, outputs = len(layout) - 1, by_between.shape[1]
    start, stop = _rows_of_part(part, len(totals), len(by_between), PANEL)
    if start == stop:
        by_weights[part] = 0
    mine, reverse = values[part], cotangents[part]
    for first in range(start, stop, PANEL):
        last, panel = min(first + PANEL, stop), stored[first // PANEL]
        b = last - first
        # The points between, and beside them the tangents there.
        for level in range(1, top):
            _rows_at(mine, layout, level, 2 * b)[:b] = _rows_at(panel, layout, level, 3 * b)[2 * b :]
        _rows_at(reverse, layout, top, 2 * b)[b:, :outputs] = by_between[first:last]
        _reverse(layout, weights, slope, mine, reverse, 2 * b, b, 2 * b, -b, 0, by_biases[part])
        _tangent(
            layout, weights, transposed, slope, mine, reverse, scratch[part], 2 * b, 0, b,
            c[first:last], weight, target, one_sided, features, norms[first:last], totals[part],
        )  # fmt: skip
        _top_of_tangent(layout, transposed, mine, 2 * b, b)
        t[first:last] = _rows_at(mine, layout, top, 2 * b)[b:, :outputs]
        _collect(layout, mine, reverse, 2 * b, b, by_weights[part], first > start)


@_jit
def _descend(
    starter: int, threads: int, layout: Any, weights: Any, transposed: Any, biases: Any, slope: float, adjoints: Any,
    stored: Any, cotangents: Any, by_weights: Any, by_biases: Any, gradients: Any,
) -> None:  # fmt: skip
    """Gradients by the parameters, to which s t has been added: what follows from those by the embeddings (3, B, O)."""
    arguments = layout, weights, slope, adjoints, stored, cotangents, by_weights, by_biases
    run_parts(starter, threads, len(by_weights), _descend_part, arguments)
    run_parts(starter, threads, len(by_weights), _add_up, (by_weights, by_biases, layout, gradients))


@_jit
def _descend_part(
    part: int, layout: Any, weights: Any, slope: float, adjoints: Any, stored: Any, cotangents: Any, by_weights: Any,
    by_biases: Any,
) -> None:  # fmt: skip
    start, stop = _rows_of_part(part, len(by_weights), adjoints.shape[1], PANEL)
    mine = cotangents[part]
    for first in range(start, stop, PANEL):
        last, panel = min(first + PANEL, stop), stored[first // PANEL]
        b = last - first
        r = _rows_at(mine, layout, len(layout) - 1, 3 * b)[:, : adjoints.shape[2]]
        for k in range(3):
            r[k * b : (k + 1) * b] = adjoints[k, first:last]
        _reverse(layout, weights, slope, panel, mine, 3 * b, 0, 3 * b, 0, 3 * b, by_biases[part])
        _collect(layout, panel, mine, 3 * b, 0, by_weights[part], True)


@_jit
def _whole_forward(
    starter: int, threads: int, x: Any, out: Any, layout: Any, parameters: Any, weights: Any, transposed: Any,
    biases: Any, slope: float, values: Any,
) -> None:  # fmt: skip
    """The outputs of rows x."""
    parts = len(values)
    run_parts(starter, threads, parts, _lay_out, (parts, parameters, weights, transposed, biases, layout))
    run_parts(starter, threads, parts, _forward, (x, out, layout, transposed, biases, slope, values))


@_jit
def _forward(part: int, x: Any, out: Any, layout: Any, transposed: Any, biases: Any, slope: float, values: Any) -> None:
    """The outputs of this part of the rows, a panel after the other."""
    top, mine = len(layout) - 1, values[part]
    start, stop = _rows_of_part(part, len(values), len(x), 1)
    for first in range(start, stop, 4 * PANEL):
        rows = min(4 * PANEL, stop - first)
        _rows_at(mine, layout, 0, rows)[:, : x.shape[1]] = x[first : first + rows]
        _up(layout, transposed, biases, slope, mine, rows, rows)
        out[first : first + rows] = _rows_at(mine, layout, top, rows)[:, : out.shape[1]]


@_jit
def _up(layout: Any, transposed: Any, biases: Any, slope: float, values: Any, every: int, rows: int) -> None:
    """Values of the first rows of each level from those of level 0."""
    top = len(layout) - 1
    for level in range(top):
        h, z = _rows_at(values, layout, level, every)[:rows], _rows_at(values, layout, level + 1, every)[:rows]
        multiply(z, h, _transposed_at(transposed, layout, level))
        _activate(z, _rows_at(biases, layout, level + 1, 1)[0], slope if level + 1 < top else 1.0)


@_jit
def _reverse(
    layout: Any, weights: Any, slope: float, values: Any, cotangents: Any,
    every: int, first: int, last: int, shift: int, biased: int, by_biases: Any,
) -> None:  # fmt: skip
    """Cotangents of rows first to last from the top level down to 1; their values stand `shift` rows on.

    The first `biased` of them are added to the gradients of the biases.
    """
    for level in range(len(layout) - 1, 0, -1):
        r = _rows_at(cotangents, layout, level, every)[first:last]
        total = _rows_at(by_biases, layout, level, 1)[0]
        for i in range(biased):
            total += r[i]
        if level > 1:
            below = _rows_at(cotangents, layout, level - 1, every)[first:last]
            multiply(below, r, _weights_at(weights, layout, level - 1))
            _slope_in_place(below, _rows_at(values, layout, level - 1, every)[first + shift : last + shift], slope)


@_jit
def _activate(z: Any, bias: Any, slope: float) -> None:
    """z + bias, and times the slope where that is below 0."""
    below = z.dtype.type(slope)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            value = z[i, j] + bias[j]
            z[i, j] = value if value > 0 else value * below


@_jit
def _slope(by_h: Any, h: Any, slope: float, out: Any) -> None:
    below = h.dtype.type(slope)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            out[i, j] = by_h[i, j] if h[i, j] > 0 else by_h[i, j] * below


@_jit
def _slope_in_place(by_h: Any, h: Any, slope: float) -> None:
    # A function of its own: where two of three arrays may be the same, the compiler gives up vectors.
    below = h.dtype.type(slope)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            by_h[i, j] = by_h[i, j] if h[i, j] > 0 else by_h[i, j] * below


# Rows


@_jit
def _load(x: Any, real: Any, fake: Any, conditions: Any, eps: Any, b: int) -> None:
    """b real rows, b generated ones, and the points between."""
    d, step = real.shape[1], len(real) // len(eps)
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


@_jit
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
        weighted = coefficients[p] * excess
        penalty += weighted * excess
        factor = 2 * weight * weighted / norm if norm > 0 else 0.0
        norms[p] = norm
        for j in range(g.shape[1]):
            v[p, j] = factor * g[p, j]
        v[p, g.shape[1] :] = 0
    total[0] += weight * penalty
    total[2] += penalty


@_jit
def _start(h: Any, s: Any, kind: int, b: int) -> None:
    """df / dh at the points between: directions from h(x_hat) to what it is compared with, near minus far."""
    if kind in (_WASSERSTEIN, _ALONE):
        s[:] = 1
        return
    for p in range(len(s)):
        i, near, far = 2 * b + p, *_compared(p, kind, b)
        s[p] = 0
        _pull(h, s, i, near, 1.0, p, -1)
        _pull(h, s, i, far, -1.0, p, -1)


@_jit
def _finish(h: Any, r: Any, t: Any, a: Any, b: Any, kind: int, merged: bool, total: Any) -> None:
    """The distance, and r of the last layer."""
    rows, distance = 0, 0.0
    if kind == _ALONE:
        if not merged:
            r[:] = 0
    elif kind == _WASSERSTEIN:
        rows = len(a)
        for i in range(rows):
            distance += a[i] * h[i, 0] - b[i] * h[rows + i, 0]
            r[i, 0], r[rows + i, 0] = -a[i], b[i]
        if not merged:
            r[2 * rows :] = 0
    else:
        r[:] = 0
        rows = 2 * len(t) if kind == _ENERGY else len(t)
        for p in range(len(t)):
            if kind == _ENERGY:
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
    total[1] += distance


@_jit
def _compared(p: int, kind: int, b: int) -> tuple[int, int]:
    """The rows whose embeddings f compares that of a point between with; -1 is the origin."""
    return (b + 2 * p + 1, 2 * p + 1) if kind == _ENERGY else (b + (p ^ 1), -1)


@_jit
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


@_jit
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
    fraction = h.dtype.type(along / square)
    for k in range(h.shape[1]):
        difference = h[i, k] - h[j, k] if j >= 0 else h[i, k]
        turn = factor * (t[k] - fraction * difference)
        r[i, k] += turn
        if j >= 0:
            r[j, k] -= turn
