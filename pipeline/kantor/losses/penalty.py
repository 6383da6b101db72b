"""Gradient penalties as all penalised critics use them, with weights joined over ranks.

f is the critic's score, or the witness of an embedding, g its gradient by what it sees of an event, conditions held
fixed.

    gp, lp  lambda E (|g| - target)^2, of lp where |g| > target, at points between real and generated rows
    r1, r2  gamma / 2 E |g|^2 at the real and at the generated rows (Mescheder et al., arXiv:1801.04406, eqs. (9), (10))
    r1r2    both

A real row is the point between with eps = 1, a generated one that with eps = 0.

Shapes: B rows of one rank, P rows at which the penalty is taken (all, or the first of each pair), D critic features.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kantor import config
from kantor.losses.base import Batch, CriticLoss
from kantor.losses.reduction import of_generated
from kantor_kernels import gradient_penalty


class Points(NamedTuple):
    """Where a penalty is taken, x_hat = eps x + (1 - eps) x~, and what each row counts."""

    eps: Tensor  # (P, 1)
    coefficients: Tensor  # (P,)


class Taken(NamedTuple):
    """A penalty without its factor, and the mean norm of the gradient; this rank's shares."""

    value: Tensor
    norm: Tensor


def points(penalty: config.Penalty, eps: Tensor, c_P: Tensor, generated_c_P: Tensor) -> list[Points]:
    """Where a penalty is taken.

    Args:
        eps: (P, 1), of the batch.
        c_P: coefficients of the real rows, `penalty_coefficients`.
        generated_c_P: of the generated ones.
    """
    if not penalty.zero_centred:
        return [Points(eps, c_P)]
    real, generated = Points(torch.ones_like(eps), c_P), Points(torch.zeros_like(eps), generated_c_P)
    return {"r1": [real], "r2": [generated], "r1r2": [real, generated]}[penalty.kind]


def taken(
    penalty: config.Penalty, f: Callable[[Tensor, Tensor], Tensor], batch: Batch, rows: slice, where: Points
) -> Taken:
    """The penalty on f at points of the given rows."""
    value, norms = gradient_penalty(
        f,
        batch.real[rows],
        batch.fake[rows],
        conditions=batch.conditions[rows],
        weights=where.coefficients,
        normalise=False,
        target=penalty.target,
        one_sided=penalty.one_sided,
        eps=where.eps,
        return_norms=True,
    )
    return Taken(value, (where.coefficients * norms).sum())


def at_rows(penalty: config.Penalty, slope_ND: Tensor, batch: Batch, c_B: Tensor) -> list[Taken]:
    """Zero-centred penalties of the gradients at the real rows and, below them, at the generated ones, N = 2 B.

    The scores of these rows are there already: one pass less than `taken` needs (docs/experiments/training-step.md).
    """
    square_B, generated_square_B = slope_ND.square().sum(-1).chunk(2)
    sides = {"r1": [(c_B, square_B)], "r2": [(of_generated(batch, c_B), generated_square_B)]}
    sides["r1r2"] = sides["r1"] + sides["r2"]
    return [Taken(c @ square, c @ square.detach().sqrt()) for c, square in sides[penalty.kind]]


def with_penalty(
    penalty: config.Penalty, batch: Batch, loss: Tensor, distance: Tensor, found: Sequence[Taken]
) -> CriticLoss:
    """The critic's loss and, times what its schedule leaves of the factor, the penalties."""
    value = torch.stack([each.value for each in found]).sum()
    norm = torch.stack([each.norm for each in found]).mean()
    total = loss + penalty.factor * batch.penalty_share * value
    return CriticLoss(total, distance.detach(), value.detach(), norm.detach())


def penalised(
    penalty: config.Penalty,
    f: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    rows: slice,
    distance: Tensor,
    where: Sequence[Points],
) -> CriticLoss:
    """The loss of a critic that maximises a distance, the penalty taken on f at the given rows."""
    return with_penalty(penalty, batch, -distance, distance, [taken(penalty, f, batch, rows, each) for each in where])
