"""Backend `cpu` of several critic updates in one call: the closed form of each, and Adam, without a return in between.

Shapes: U updates, B rows of a batch, P points of the penalty, W parameters in one row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kantor_kernels.compiling import jit
from kantor_kernels.critic_step.cpu import KINDS, step_for, whole_step
from kantor_kernels.critic_step.problem import AdamState, Descent, Loss, Perceptron, Rows
from kantor_kernels.threads import run_parts

# Not "nnan" or "ninf": what is not finite has to be seen.
_jit = jit(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")


@torch.no_grad()
def descend(perceptron: Perceptron, rows: Rows, loss: Loss, adam: AdamState) -> Descent:
    """As the reference; `rows` are those of all updates, (U, ...) each."""
    step = step_for(perceptron)
    step.copy(perceptron)
    moments = torch.zeros(2, step.numbers, dtype=rows.real.dtype)
    ours = [step.views(row) for row in moments]
    for mine, theirs in zip(ours, (adam.means, adam.squares), strict=True):
        torch._foreach_copy_(mine, theirs)  # pyright: ignore[reportPrivateImportUsage]

    updates, b, _ = rows.real.shape
    conditions = rows.real[..., :0] if rows.conditions is None else rows.conditions
    norm_UP = torch.empty_like(rows.eps)
    total_U3, norm_U = rows.real.new_zeros(updates, 3), np.zeros(updates)
    arrays = (t.contiguous().numpy() for t in (rows.real, rows.fake, conditions, *rows[3:], norm_UP))
    done = _descend(
        *step.threads(20 * b), step.layout, step.parameters, step.weights, step.transposed,
        step.biases, perceptron.slope, KINDS[loss.kind], loss.weight, loss.target, loss.one_sided,
        *arrays, step.values, step.cotangents, step.scratch, step.by_weights, step.by_biases, step.totals,
        np.empty(step.numbers, step.parameters.dtype), total_U3.numpy(), norm_U,
        moments.numpy(), adam.steps, adam.learning_rate, *adam.betas, adam.epsilon,
    )  # fmt: skip

    torch._foreach_copy_(perceptron.parameters(), step.copies)  # pyright: ignore[reportPrivateImportUsage]
    for mine, theirs in zip(ours, (adam.means, adam.squares), strict=True):
        torch._foreach_copy_(theirs, mine)  # pyright: ignore[reportPrivateImportUsage]
    losses, distances, penalties = total_U3.unbind(1)
    return Descent(int(done), losses, distances, penalties, norm_UP, torch.from_numpy(norm_U))


@_jit
def _descend(
    starter: int, threads: int, layout: Any, parameters: Any, weights: Any, transposed: Any, biases: Any,
    slope: float, kind: int, weight: float, target: float, one_sided: bool,
    real: Any, fake: Any, conditions: Any, eps: Any, a: Any, b: Any, c: Any, norms: Any,
    values: Any, cotangents: Any, scratch: Any, by_weights: Any, by_biases: Any, totals: Any,
    gradient: Any, total: Any, gradient_norm: Any,
    moments: Any, steps: int, rate: float, beta1: float, beta2: float, epsilon: float,
) -> int:  # fmt: skip
    """How many updates were done: all, or those before the first that is not finite."""
    parts = len(totals)
    for u in range(len(real)):
        whole_step(
            starter, threads, layout, parameters, weights, transposed, biases,
            slope, kind, weight, target, one_sided,
            real[u], fake[u], conditions[u], eps[u], a[u], b[u], c[u], norms[u],
            values, cotangents, scratch, by_weights, by_biases, totals, gradient, total[u],
        )  # fmt: skip
        gradient_norm[u] = _norm(gradient)
        if not (np.isfinite(gradient_norm[u]) and np.isfinite(total[u, 0])):
            return u
        t = steps + u + 1
        scale, root = rate / (1 - beta1**t), np.sqrt(1 - beta2**t)
        run_parts(
            starter, threads, parts, _adam, (parts, parameters, gradient, moments, beta1, beta2, scale, root, epsilon)
        )
    return len(real)


@_jit
def _norm(gradient: Any) -> float:
    square = 0.0
    for i in range(len(gradient)):
        square += np.float64(gradient[i]) * np.float64(gradient[i])
    return np.sqrt(square)


@_jit
def _adam(
    part: int, parts: int, parameters: Any, gradient: Any, moments: Any,
    beta1: float, beta2: float, scale: float, root: float, epsilon: float,
) -> None:  # fmt: skip
    """This part of an update: Kingma and Ba, arXiv:1412.6980, Algorithm 1, in PyTorch's order of operations."""
    kind = parameters.dtype.type
    first, last = len(parameters) * part // parts, len(parameters) * (part + 1) // parts
    p, g, mean, square = parameters[first:last], gradient[first:last], moments[0, first:last], moments[1, first:last]
    towards, keep, add = kind(1 - beta1), kind(beta2), kind(1 - beta2)
    size, below, floor = kind(scale), kind(root), kind(epsilon)
    for i in range(len(p)):
        m = mean[i] + towards * (g[i] - mean[i])
        v = keep * square[i] + add * g[i] * g[i]
        mean[i], square[i] = m, v
        p[i] -= size * m / (np.sqrt(v) / below + floor)
