"""A loss whose gradients are known already, for whoever calls `backward()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def with_gradients(loss: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """The loss as a function of the parameters: `backward()` hands the gradients out, once.

    Hooks on the parameters see them, those of `DistributedDataParallel` included.

    Raises:
        NotImplementedError: on a second derivative, or a second `backward()`.
    """
    result = _KnownGradients.apply(loss, list(gradients), *parameters)
    assert isinstance(result, Tensor)
    return result


class _KnownGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        # Kept here no longer, a gradient can become `.grad` without being copied.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None or torch.is_grad_enabled():
            raise NotImplementedError("kantor mlp_critic_step is differentiable once, with one backward pass")
        (by_loss,) = cotangents
        if by_loss.device.type != "cpu" or by_loss != 1:
            gradients = torch._foreach_mul(gradients, by_loss)  # pyright: ignore[reportPrivateImportUsage]
        return None, None, *gradients
