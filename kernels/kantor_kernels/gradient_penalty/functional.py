"""The WGAN gradient penalty: the documented public function and its module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from kantor_kernels import backends, transforms
from kantor_kernels.arguments import (
    check_flags,
    check_generator,
    check_optional_tensors,
    check_tensors,
    finite_number,
    given,
)
from kantor_kernels.backends import Choice, InModule
from kantor_kernels.critic_step import Perceptron
from kantor_kernels.critic_step.functional import OPERATION as STEP
from kantor_kernels.critic_step.functional import Layers
from kantor_kernels.critic_step.problem import read
from kantor_kernels.gradient_penalty import closed, reference
from kantor_kernels.samples import check_finite, check_shares, may_look


class Points(NamedTuple):
    """What is asked of the gradient penalty: the critic as the closed form knows it, or why it does not."""

    device: torch.device
    critic: Perceptron | str

    @classmethod
    def of(cls, critic: object, real: Tensor, conditions: Tensor | None) -> Points:
        return cls(real.device, _known(critic, real, conditions))


def _known(critic: object, real: Tensor, conditions: Tensor | None) -> Perceptron | str:
    if not isinstance(critic, nn.Module):
        return "of a function nothing is known"
    found = read(critic)
    if isinstance(found, str):
        return f"of the critic, {found}"
    if transforms.traced():
        return "inside of a compiled function or a transform the whole is one graph"
    if not torch.is_grad_enabled():
        return "without a gradient there is one backward pass anyway"
    if torch.is_autocast_enabled(real.device.type):
        return "autocast chooses the critic's precision, operation by operation"
    if conditions is not None:
        return "where the critic puts its conditions is not known"
    first = found.weights[0]
    if (
        found.outputs != 1
        or real.shape[1:] != (found.inputs,)
        or (real.dtype, real.device) != (first.dtype, first.device)
    ):
        return f"it takes rows (B, {found.inputs}) in {first.dtype} on {first.device} and gives {found.outputs} outputs"
    if not any(parameter.requires_grad for parameter in found.parameters()):
        return "no parameter requires a gradient"
    return found


def _unknown(problem: Points) -> str | None:
    return problem.critic if isinstance(problem.critic, str) else None


# The critic is the caller's, and so is its precision.
OPERATION = backends.register(
    "gradient_penalty", InModule("closed", closed, limits=_unknown), InModule("reference", reference, autocast=True)
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

    Per sample and two-sided by default; the conditions are held fixed and not interpolated. An ordinary `backward()` of
    the result gives the derivative by the critic's parameters, also under `DistributedDataParallel`. Of a perceptron,
    what `Perceptron.of` knows, they are computed in closed form; of any other critic, which is called once, by a double
    backward in one graph. Real and fake samples are constants. Batch statistics are not allowed, since sample b must
    depend on sample b alone.

    Source: Gulrajani et al., arXiv:1704.00028, Algorithm 1; one-sided: Petzka et al., arXiv:1709.08894, eq. (8).

    Args:
        critic: called as critic(x_hat), or critic(x_hat, conditions); returns (B,) or (B, 1). Any function that can be
            differentiated twice.
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
        backend: "auto" as described (`explain_penalty` says which), "closed", "reference" (double backward, of any
            order).

    Returns:
        The penalty, a scalar (float64 for float64 input, else float32), or (penalty, norms).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes, dtypes or devices disagree, an empty batch, weights that are all zero or not finite,
            normalise=False without weights, eps outside of [0, 1] (looked at on CPUs), a critic that does not return
            one score a sample, a backend that is unknown or cannot run.
        NotImplementedError: a second derivative of the closed form was asked for.
    """
    _check_critic(critic)
    check_tensors(real=real, fake=fake)
    check_optional_tensors(conditions=conditions, weights=weights, eps=eps)
    check_flags(one_sided=one_sided, normalise=normalise, return_norms=return_norms)
    check_generator(generator)
    target = finite_number("target", target)
    if real.shape != fake.shape or real.dtype != fake.dtype or real.device != fake.device:
        raise ValueError(
            f"real and fake must agree, got {tuple(real.shape)} {real.dtype} {real.device} and "
            f"{tuple(fake.shape)} {fake.dtype} {fake.device}"
        )
    if real.ndim < 2 or real.numel() == 0 or not real.is_floating_point():
        raise ValueError(f"real must be floating, (B, ...) and not empty, got {tuple(real.shape)} {real.dtype}")
    points = Points.of(critic, real, conditions)
    chosen, _ = backends.choose(OPERATION, backend, points)
    coefficient_B = _coefficients(real, weights, normalise)
    eps = _mixing(real, eps, generator)
    called = points.critic if chosen.name == "closed" else critic
    penalty, norm_B = chosen.run(
        "gradient_penalty", called, real, fake, eps, conditions, coefficient_B, target, one_sided
    )
    return (penalty, norm_B.detach()) if return_norms else penalty


def explain_penalty(
    critic: Callable[..., Tensor], real: Tensor, *, conditions: Tensor | None = None, backend: str = "auto"
) -> Choice:
    """How `gradient_penalty(critic, real, ..., conditions=conditions)` would be computed, without doing it.

    Returns:
        A `Choice`: backend and reason; of the closed form with the backend of `mlp_critic_step` that it takes.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a backend that is unknown or cannot run.
    """
    _check_critic(critic)
    check_tensors(real=real)
    check_optional_tensors(conditions=conditions)
    points = Points.of(critic, real, conditions)
    chosen, reason = backends.choose(OPERATION, backend, points)
    if isinstance(points.critic, Perceptron) and chosen.name == "closed":
        by, why = backends.choose(STEP, "auto", Layers.of(points.critic))
        reason = f"{reason}; by {by.name} ({why})"
    return Choice(chosen.name, reason)


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


def _check_critic(critic: object) -> None:
    if not callable(critic):
        raise TypeError(f"critic must be callable, got {given(critic)}; pass a module or a function of rows")


def _coefficients(real: Tensor, weights: Tensor | None, normalise: bool) -> Tensor | None:
    """Of the rows; None where all are equal and add up to one."""
    if weights is None:
        if not normalise:
            raise ValueError("normalise=False needs weights")
        return None
    dtype = torch.float64 if real.dtype == torch.float64 else torch.float32
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
    if eps.dtype != real.dtype or eps.device != real.device:
        eps = eps.to(real.device, real.dtype)
    return eps.view(-1, *[1] * (real.ndim - 1))
