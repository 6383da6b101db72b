"""A loss whose gradients are known already, for whoever calls `backward()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def with_gradients(
    loss: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor], *, once: bool = True
) -> Tensor:
    """The loss as a function of the parameters: `backward()` hands the gradients out.

    Hooks on the parameters see them, those of `DistributedDataParallel` included.

    Args:
        once: hand them out to one `backward()` alone, which spares a copy.

    Raises:
        NotImplementedError: on a second derivative, or with `once` a second `backward()`.
    """
    result = _KnownGradients.apply(loss, list(gradients), once, *parameters)
    assert isinstance(result, Tensor)
    return result


def hand_out(loss: Tensor) -> bool:
    """Set the gradients that `with_gradients` has given a loss, as its `backward()` would, past autograd and all hooks.

    Returns:
        Whether it is such a loss, and still has them; if not, nothing is done.
    """
    known: Any = loss.grad_fn
    if getattr(type(known), "_forward_cls", None) is not _KnownGradients or known.gradients is None:
        return False
    gradients, known.gradients = known.gradients, None
    for parameter, gradient in zip(known.parameters, gradients, strict=True):
        parameter.grad = gradient
    return True


class _KnownGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], once: bool, *parameters: Tensor) -> Tensor:
        ctx.gradients, ctx.once, ctx.parameters = gradients, once, parameters
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if gradients is None or torch.is_grad_enabled():
            raise NotImplementedError(
                "kantor's closed form is differentiable once: where create_graph or a second backward() ask for more, "
                "pass backend='reference'"
            )
        (by_loss,) = cotangents
        if ctx.once:
            # Kept here no longer, a gradient can become `.grad` without being copied.
            ctx.gradients = None
            if by_loss.device.type == "cpu" and by_loss == 1:
                return None, None, None, *gradients
        if by_loss.device.type == "cpu":  # where one by one is faster
            return None, None, None, *(gradient * by_loss for gradient in gradients)
        return None, None, None, *torch._foreach_mul(gradients, by_loss)  # pyright: ignore[reportPrivateImportUsage]
