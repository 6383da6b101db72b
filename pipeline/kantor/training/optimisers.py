"""The optimisers of a training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, optim

from kantor.config import Adam, AnyOptimiser


def make_optimiser(module: nn.Module, settings: AnyOptimiser) -> optim.Optimizer:
    """The optimiser of a network's parameters that a configuration asks for."""
    # As a group, which may be empty where there is no critic.
    groups = [{"params": list(module.parameters())}]
    if isinstance(settings, Adam):
        return FusedAdam(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
    return optim.RMSprop(groups, lr=settings.learning_rate, alpha=settings.alpha)


class FusedAdam(optim.Adam):
    """PyTorch's fused Adam (Kingma and Ba, arXiv:1412.6980) without the bookkeeping around it, from its second step on.

    For networks of a few layers that takes three times as long as the update itself. State and numbers are those of
    `optim.Adam(fused=True)`; one group, no weight decay.
    """

    _lists: tuple[list[Tensor], ...] | None = None  # parameters, both moments, steps

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Descend by the parameters' gradients, which all have one."""
        (group,) = self.param_groups
        gradients = [p.grad for p in group["params"]]
        if self._lists is None or closure is not None:
            loss = super().step(closure)
            self._lists = self._found(group["params"])
            return loss
        parameters, means, squares, steps = self._lists
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        beta1, beta2 = group["betas"]
        torch._fused_adam_(
            parameters, gradients, means, squares, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
            weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        return None

    # PyTorch would wrap it into a record of its profiler and look for hooks.
    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._lists = None

    def _found(self, parameters: list[Tensor]) -> tuple[list[Tensor], ...] | None:
        if any(p.grad is None for p in parameters) or not parameters:
            return None
        state = [self.state[p] for p in parameters]
        return parameters, *([one[name] for one in state] for name in ("exp_avg", "exp_avg_sq", "step"))
