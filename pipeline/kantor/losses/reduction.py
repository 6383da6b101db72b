"""Weighted means over the joined batch of all ranks.

Data parallelism averages gradients over R ranks, so a rank's share of a joined mean is R times its part of the sum.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from kantor.errors import TrainingError


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def joined_sum(value: Tensor) -> Tensor:
    """The sum over ranks, detached."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value


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
    if abs(sums[0]) <= 1e-6 * sums[1]:
        raise TrainingError(
            "the weights of a batch add up to zero",
            cure="use a larger batch, or signed_weights: clip",
        )
    return weights_B * (world_size() / sums[0])


def penalty_coefficients(weights_B: Tensor | None, like_B: Tensor) -> Tensor:
    """As `coefficients`, of |w|: a penalty must not be rewarded where weights are negative."""
    return coefficients(None if weights_B is None else weights_B.abs(), like_B)
