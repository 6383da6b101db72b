"""The gradient penalty as all penalised critics use it, with weights joined over ranks."""

from collections.abc import Callable

from torch import Tensor

from kantor import config
from kantor.losses.base import Batch, CriticLoss
from kantor.losses.reduction import penalty_coefficients
from kantor_kernels import gradient_penalty


def penalised(
    penalty: config.Penalty,
    f: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    rows: slice,
    distance: Tensor,
    weights: Tensor | None,
) -> CriticLoss:
    """The critic's loss -distance + lambda GP, the penalty taken on f at the given rows."""
    a = penalty_coefficients(weights, batch.eps[rows, 0])
    value, norms = gradient_penalty(
        f,
        batch.real[rows],
        batch.fake[rows],
        conditions=batch.conditions[rows],
        weights=a,
        normalise=False,
        target=penalty.target,
        one_sided=penalty.one_sided,
        eps=batch.eps[rows],
        return_norms=True,
    )
    return CriticLoss(-distance + penalty.weight * value, distance.detach(), value.detach(), (a * norms).sum())
