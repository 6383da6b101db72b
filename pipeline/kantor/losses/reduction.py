"""Weighted means over the joined batch of all ranks.

Data parallelism averages gradients over R ranks, so a rank's share of a joined mean is R times its part of the sum.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kantor.errors import TrainingError
from kantor.losses.base import Batch
from kantor.resolution import cancel


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def joined_sum(value: Tensor) -> Tensor:
    """The sum over ranks, detached."""
    total = value.detach().clone()
    if world_size() > 1:
        if dist.get_backend() == "nccl":
            total = total.cuda()  # NCCL knows no other memory
        dist.all_reduce(total)
    return total.to(value.device)


def joined_mean(value: Tensor) -> Tensor:
    """The mean over ranks, detached."""
    return joined_sum(value) / world_size()


def coefficients(weights_B: Tensor | None, like_B: Tensor) -> Tensor:
    """(B,) factors a with: mean over ranks of sum_b a_b l_b = (sum of w l) / (sum of w) over the joined batch.

    Raises:
        TrainingError: the weights of the batch add up to nothing.
    """
    if weights_B is None:
        return torch.full_like(like_B, 1 / len(like_B))
    sums = joined_sum(torch.stack([weights_B.sum(), weights_B.abs().sum()]))
    check_total(sums[0], sums[1])
    return weights_B * (world_size() / sums[0])


def weighted_mean(weights_B: Tensor | None, values_B: Tensor) -> Tensor:
    """This rank's share of the mean of the values over the joined batch; raises as `coefficients`."""
    return (coefficients(weights_B, values_B) * values_B).sum()


def real_mean(batch: Batch, values_B: Tensor) -> Tensor:
    """`weighted_mean` of values of the real events."""
    return weighted_mean(batch.weights, values_B)


def generated_mean(batch: Batch, values_B: Tensor) -> Tensor:
    """`weighted_mean` of values of the generated events."""
    return weighted_mean(batch.generated_weights, values_B)


def both_coefficients(weights_B: Tensor | None, like_B: Tensor) -> tuple[Tensor, Tensor]:
    """`coefficients` and `penalty_coefficients` of the same weights."""
    if weights_B is None:
        equal_B = torch.full_like(like_B, 1 / len(like_B))
        return equal_B, equal_B
    size_B = weights_B.abs()
    sums = joined_sum(torch.stack([weights_B.sum(), size_B.sum()]))
    check_total(sums[0], sums[1])
    return weights_B * (world_size() / sums[0]), size_B * (world_size() / sums[1])


def check_total(total: Tensor, size: Tensor) -> None:
    """Raise `TrainingError` where a total weight vanishes beside its size, the total of absolute weights."""
    if bool(cancel(total, size).any()):
        raise TrainingError(
            "the weights of a batch add up to zero",
            cure="use a larger batch, or signed_weights: clip",
        )


def penalty_coefficients(weights_B: Tensor | None, like_B: Tensor) -> Tensor:
    """As `coefficients`, of |w|: a penalty must not be rewarded where weights are negative."""
    return coefficients(None if weights_B is None else weights_B.abs(), like_B)


def of_generated(batch: Batch, coefficients_B: Tensor) -> Tensor:
    """The coefficients of real rows for the generated ones: equal ones, where these carry no weights."""
    if batch.generated_weights is batch.weights:
        return coefficients_B
    return coefficients(None, coefficients_B)


def joined_moment(value: Tensor) -> Tensor:
    """The mean over ranks of `value`, for losses that are functions of means over the joined batch.

    Its gradient flows to this rank's part alone: data parallelism's mean over ranks then is the joined gradient.
    """
    return joined_mean(value) + (value - value.detach())


def gathered(rows: Tensor) -> Tensor:
    """(R B, ...) the rows of all ranks, this rank's first, differentiable.

    A row's gradient is the sum of what all ranks' losses have for it, so losses have to be shares as in `coefficients`.
    """
    if world_size() == 1:
        return rows
    everything = _Gather.apply(rows)
    assert isinstance(everything, Tensor)
    return everything.roll(-dist.get_rank() * len(rows), 0)


class _Gather(torch.autograd.Function):
    """(B, ...) of each rank to (R B, ...) in the order of ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        total = cotangents[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[dist.get_rank()]
