"""The WGAN gradient penalty: the documented public function and its module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from kantor_kernels import backends
from kantor_kernels.arguments import (
    check_flags,
    check_generator,
    check_optional_tensors,
    check_tensors,
    finite_number,
    given,
)
from kantor_kernels.backends import InModule
from kantor_kernels.gradient_penalty import autograd, reference
from kantor_kernels.samples import check_finite, check_shares, may_look


class Points(NamedTuple):
    """What is asked of the gradient penalty."""

    device: torch.device


# The critic is the caller's, and so is its precision.
OPERATION = backends.register(
    "gradient_penalty", InModule("torch", autograd, autocast=True), InModule("reference", reference, autocast=True)
)


@overload
def gradient_penalty(
    critic: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    conditions: Tensor | None = None,
    weights: Tensor | None = None,
    target: float = 1.0,
    one_sided: bool = False,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    normalise: bool = True,
    return_norms: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def gradient_penalty(
    critic: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    conditions: Tensor | None = None,
    weights: Tensor | None = None,
    target: float = 1.0,
    one_sided: bool = False,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    normalise: bool = True,
    return_norms: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def gradient_penalty(
    critic: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    conditions: Tensor | None = None,
    weights: Tensor | None = None,
    target: float = 1.0,
    one_sided: bool = False,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    normalise: bool = True,
    return_norms: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Weighted mean of (|g_b|_2 - target)^2, g_b the critic's gradient at x_hat_b = eps_b x_b + (1 - eps_b) x~_b.

    Per sample and two-sided by default; the conditions are held fixed and not interpolated. The result is the
    penalty with its first derivative by the critic's parameters, got without a double backward: an ordinary
    `backward()` suffices, under `DistributedDataParallel` with the bare module as critic. Real and fake samples
    are constants. The critic is evaluated twice with the same random numbers, so dropout is allowed; batch
    statistics are not, since sample b must depend on sample b alone.

    Source: Gulrajani et al., arXiv:1704.00028, Algorithm 1; one-sided: Petzka et al., arXiv:1709.08894, eq. (8).

    Args:
        critic: called as critic(x_hat), or critic(x_hat, conditions); returns (B,) or (B, 1). Any differentiable
            closure; its operations need forward-mode derivatives (PyTorch's own have them).
        real: (B, ...).
        fake: (B, ...), same shape, dtype and device.
        conditions: passed through to the critic.
        weights: (B,), any sign; the mean is weighted by |w| / sum |w|.
        target: the norm that costs nothing.
        one_sided: penalise only norms above the target.
        eps: (B,) or (B, 1, ...) in [0, 1]; None draws it uniformly.
        generator: draws eps.
        normalise: False takes `weights` as they are, sum_b w_b (|g_b| - target)^2: with globally normalised
            weights, ranks of a data-parallel run add up to the penalty of the joined batch.
        return_norms: also return |g| as (B,), detached.
        backend: "auto" and "torch" as described, "reference" by double backward (any order).

    Returns:
        The penalty, a scalar (float64 for float64 input, else float32), or (penalty, norms).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes, dtypes or devices disagree, an empty batch, weights that are all zero or not finite,
            normalise=False without weights, eps outside of [0, 1] (looked at on CPUs), a critic that does not return
            one score a sample, an unknown backend.
        NotImplementedError: a second derivative of the result was asked for.
    """
    if not callable(critic):
        raise TypeError(f"critic must be callable, got {given(critic)}; pass a module or a function of rows")
    check_tensors(real=real, fake=fake)
    check_optional_tensors(conditions=conditions, weights=weights, eps=eps)
    check_flags(one_sided=one_sided, normalise=normalise, return_norms=return_norms)
    check_generator(generator)
    target = finite_number("target", target)
    chosen, _ = backends.choose(OPERATION, backend, Points(real.device))
    if real.shape != fake.shape or real.dtype != fake.dtype or real.device != fake.device:
        raise ValueError(
            f"real and fake must agree, got {tuple(real.shape)} {real.dtype} {real.device} and "
            f"{tuple(fake.shape)} {fake.dtype} {fake.device}"
        )
    if real.ndim < 2 or real.numel() == 0 or not real.is_floating_point():
        raise ValueError(f"real must be floating, (B, ...) and not empty, got {tuple(real.shape)} {real.dtype}")
    coefficient_B = _coefficients(real, weights, normalise)
    eps = _mixing(real, eps, generator)
    x_hat = (eps * real + (1 - eps) * fake).detach()

    def checked(x: Tensor, *c: Tensor) -> Tensor:
        score = critic(x, *c)
        if score.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(f"the critic must return ({len(x)},) or ({len(x)}, 1), got {tuple(score.shape)}")
        return score

    penalty, norm_B = chosen.run("gradient_penalty", checked, x_hat, conditions, coefficient_B, target, one_sided)
    return (penalty, norm_B.detach()) if return_norms else penalty


class GradientPenalty(nn.Module):
    """`gradient_penalty` as a module.

    Args:
        target, one_sided, backend: keyword arguments of `gradient_penalty`.
    """

    def __init__(self, target: float = 1.0, one_sided: bool = False, *, backend: str = "auto") -> None:
        super().__init__()
        check_flags(one_sided=one_sided)
        self.target, self.one_sided, self.backend = finite_number("target", target), one_sided, backend

    def forward(
        self,
        critic: Callable[..., Tensor],
        real: Tensor,
        fake: Tensor,
        conditions: Tensor | None = None,
        weights: Tensor | None = None,
        eps: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return gradient_penalty(
            critic,
            real,
            fake,
            conditions=conditions,
            weights=weights,
            target=self.target,
            one_sided=self.one_sided,
            eps=eps,
            generator=generator,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"target={self.target}, one_sided={self.one_sided}"


def _coefficients(real: Tensor, weights: Tensor | None, normalise: bool) -> Tensor:
    dtype = torch.float64 if real.dtype == torch.float64 else torch.float32
    if weights is None:
        if not normalise:
            raise ValueError("normalise=False needs weights")
        return real.new_full((len(real),), 1 / len(real), dtype=dtype)
    if weights.shape != real.shape[:1] or weights.device != real.device:
        raise ValueError(
            f"weights must be ({len(real)},) on {real.device}, got {tuple(weights.shape)} on {weights.device}"
        )
    weights = weights.detach().to(dtype)
    if not normalise:
        return weights
    total = weights.abs().sum()
    if may_look(total) and not bool((total > 0) & total.isfinite()):
        check_finite("weights", weights)
        raise ValueError("weights are all zero: the penalty has no mean; leave out such a batch")
    return weights.abs() / total


def _mixing(real: Tensor, eps: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if eps is None:
        device = real.device if generator is None else generator.device
        eps = torch.rand(len(real), generator=generator, device=device, dtype=torch.float32)
    elif eps.numel() != len(real) or eps.shape[:1] != real.shape[:1]:
        raise ValueError(
            f"eps must hold one number per sample, ({len(real)},) or ({len(real)}, 1), got {tuple(eps.shape)}"
        )
    else:
        check_shares("eps", eps)
    return eps.detach().to(device=real.device, dtype=real.dtype).view(-1, *[1] * (real.ndim - 1))
