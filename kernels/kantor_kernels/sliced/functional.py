"""The sliced energy distance: the documented public function."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from kantor_kernels import backends
from kantor_kernels.arguments import check_flags, check_generator, whole_number
from kantor_kernels.backends import InModule
from kantor_kernels.samples import Sample, may_be_differentiated, prepare_pair, result_dtype
from kantor_kernels.sliced import autograd, reference, tiled

SLICES = 64


class Directions(NamedTuple):
    """What is asked of the sliced energy distance."""

    device: torch.device


OPERATION = backends.register(
    "sliced",
    InModule("cpu", "kantor_kernels.sliced.cpu", "numba", ("cpu",)),
    InModule("torch", tiled),
    InModule("reference", reference),
)


@overload
def sliced_energy_distance(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    *,
    n_slices: int | None = None,
    orthogonal: bool | None = None,
    estimator: str = "v",
    precision: str = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def sliced_energy_distance(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    *,
    n_slices: int | None = None,
    orthogonal: bool | None = None,
    estimator: str = "v",
    precision: str = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def sliced_energy_distance(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    *,
    n_slices: int | None = None,
    orthogonal: bool | None = None,
    estimator: str = "v",
    precision: str = "auto",
    generator: torch.Generator | None = None,
    return_error: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Unbiased estimate of `energy_distance` (exponent 1) from P random directions, in O(P (N + M) log(N + M)).

    c_D times the mean over directions of the energy distance of the projections, which sorting makes exact. The
    expectation over directions is the energy distance itself, and so for the gradient. Differentiable once in x, y
    and the weights. On a line (D = 1) it is exact.

    Source: Hertrich et al., "Generative sliced MMD flows with Riesz kernels", arXiv:2305.11463, Theorem 1.

    Args:
        x: (..., N, D).
        y: (..., M, D), same batch shape, dtype and device.
        weight_x: (..., N), any sign, normalised by their sum; None means equal weights.
        weight_y: (..., M).
        n_slices: P, default 64; the error falls as 1 / sqrt(P). One set of directions serves the whole batch.
        orthogonal: draw directions in groups of D orthogonal ones, which scatter less. None: where there are at
            least two such groups, since the error is taken between groups.
        estimator: "v" or "u", as in `energy_distance`.
        precision: "auto" (half in float32, else as given), "float32" or "float64" arithmetic.
        generator: draws the directions.
        return_error: also return the standard error due to the directions (not that of the samples), detached.
        backend: "auto", "reference" (any order of derivative), "torch" or "cpu".

    Returns:
        (...), float32, or float64 for float64 input; or (estimate, standard error).

    Raises:
        TypeError, ValueError: as `energy_distance`; n_slices < 1; an error asked for of fewer than two groups of
            directions.
        NotImplementedError: a second derivative was asked for.
    """
    sample_x, sample_y = prepare_pair(x, y, weight_x, weight_y, precision, estimator)
    count = SLICES if n_slices is None else whole_number("n_slices", n_slices)
    check_flags(return_error=return_error)
    check_generator(generator)
    d = x.shape[-1]
    if orthogonal is None:
        orthogonal = count >= 2 * d
    check_flags(orthogonal=orthogonal)
    group = d if orthogonal else 1
    if return_error and count <= group:
        raise ValueError(f"a standard error needs two groups of directions: n_slices > {group}, got {count}")
    chosen, _ = backends.choose(OPERATION, backend, Directions(x.device))
    direction_PD = _directions(count, d, group, x.device, generator)
    if chosen.name == "reference":
        values = chosen.run(
            "slices", sample_x.points, sample_y.points, sample_x.weight, sample_y.weight, direction_PD, estimator
        )
        estimate, values_BP = values.mean(-1), values.detach().double().reshape(-1, count)
    else:
        points_x, points_y = sample_x.flat, sample_y.flat
        weight_BK = _weights(sample_x, sample_y)
        estimate, values_BP, *_ = autograd.energy(
            points_x,
            points_y,
            weight_BK,
            _excess(sample_x, sample_y, estimator),
            direction_PD.to(points_x.dtype),
            may_be_differentiated(points_x) or may_be_differentiated(points_y),
            weight_BK is not None and may_be_differentiated(weight_BK),
            chosen.name,
        )
    estimate = estimate.reshape(x.shape[:-2]).to(result_dtype(x))
    if not return_error:
        return estimate
    return estimate, _error(values_BP, group).reshape(x.shape[:-2]).to(result_dtype(x))


def _directions(count: int, d: int, group: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(P, D) float64, uniform on the sphere; orthogonal within each group of rows."""
    home = device if generator is None else generator.device
    if group == 1:
        direction_PD = torch.randn(count, d, dtype=torch.float64, device=home, generator=generator)
        return (direction_PD / direction_PD.norm(dim=1, keepdim=True)).to(device)
    groups = -(-count // d)
    q, r = torch.linalg.qr(torch.randn(groups, d, d, dtype=torch.float64, device=home, generator=generator))
    # With the signs of the diagonal of R taken out, Q is uniform among the rotations and reflections.
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return q.mT.reshape(-1, d)[:count].to(device)


def _weights(sample_x: Sample, sample_y: Sample) -> Tensor | None:
    """(B, N + M) float64, normalised in each sample, or None where all are equal."""
    if sample_x.weight is None and sample_y.weight is None:
        return None
    parts = []
    for sample in (sample_x, sample_y):
        weight_BN = torch.ones_like(sample.flat[..., 0]) if sample.weight_flat is None else sample.weight_flat
        parts.append(weight_BN.double() / sample.total.unsqueeze(-1))
    return torch.cat(parts, -1)


def _excess(sample_x: Sample, sample_y: Sample, estimator: str) -> Tensor:
    """(B, 2) float64: what the U estimator takes off for the missing i = j, sum w^2 / ((sum w)^2 - sum w^2)."""
    if estimator == "v":
        return sample_x.points.new_zeros(len(sample_x.flat), 2, dtype=torch.float64)
    return torch.stack([sample.total**2 / sample.pair_total - 1 for sample in (sample_x, sample_y)], -1)


def _error(values_BP: Tensor, group: int) -> Tensor:
    """The standard error of the mean, from the scatter of the groups' means; a last group may be short."""
    groups = values_BP.detach().split(group, dim=1)
    share_G = values_BP.new_tensor([part.shape[1] / values_BP.shape[1] for part in groups])
    mean_BG = torch.stack([part.mean(1) for part in groups], 1)
    apart_BG = mean_BG - (mean_BG * share_G).sum(1, keepdim=True)
    return ((share_G * apart_BG).square().sum(1) * (len(groups) / (len(groups) - 1))).sqrt()
