"""The optimisers of a training."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim

from kantor import config
from kantor_kernels.critic_step import AdamState

_fused_adam: Any = torch._fused_adam_  # pyright: ignore[reportPrivateImportUsage]


def make_optimiser(module: nn.Module, settings: config.AnyOptimiser) -> optim.Optimizer:
    """The optimiser of a network's parameters that a configuration asks for."""
    if isinstance(settings, config.Adam):
        return FusedAdam(module.parameters(), settings.learning_rate, settings.betas)
    # As a group, which may be empty where there is no critic.
    return optim.RMSprop([{"params": list(module.parameters())}], lr=settings.learning_rate, alpha=settings.alpha)


class FusedAdam(optim.Adam):
    """PyTorch's fused Adam (Kingma and Ba, arXiv:1412.6980) without the bookkeeping around it.

    For networks of a few layers that takes three times as long as the update itself. State and numbers are those of
    `optim.Adam(fused=True)`, but that the state is there from the start.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, betas: tuple[float, float]) -> None:
        # As a group, which may be empty where there is no critic.
        super().__init__([{"params": list(parameters)}], lr=learning_rate, betas=betas, fused=True)
        for p in self._parameters:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Descend by the parameters' gradients, which all have one."""
        assert closure is None
        (group,) = self.param_groups
        beta1, beta2 = group["betas"]
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        steps = self._state("step")
        if not gradients:
            return
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        _fused_adam(
            self._parameters, gradients, self._state("exp_avg"), self._state("exp_avg_sq"), [], steps, lr=group["lr"],
            beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

    # PyTorch would wrap it into a record of its profiler and look for hooks.
    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]

    def moments(self) -> AdamState:
        """Where it stands, for updates that something else does; `moved` has to be told of them."""
        (group,) = self.param_groups
        means, squares, (steps, *_) = (self._state(name) for name in ("exp_avg", "exp_avg_sq", "step"))
        return AdamState(means, squares, int(steps), group["lr"], group["betas"], group["eps"])

    def moved(self, updates: int) -> None:
        """So many updates were done with its moments."""
        torch._foreach_add_(self._state("step"), updates)  # pyright: ignore[reportPrivateImportUsage]

    @property
    def _parameters(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def _state(self, name: str) -> list[Any]:
        return [self.state[p][name] for p in self._parameters]
