"""The permutation two-sample test: the documented public function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kantor_kernels import backends
from kantor_kernels.arguments import check_flags, check_generator, check_tensors, instance, whole_number
from kantor_kernels.backends import InModule
from kantor_kernels.pairwise.kernels import Energy, Gaussian, InverseMultiquadric, Kernel, Laplacian, median_distance
from kantor_kernels.permutation import reference, tiled
from kantor_kernels.samples import Sample, check_finite, prepare_pair

# Pools up to here are computed in float64: their ties must compare equal, and it is cheap enough.
SMALL = 2048
# Squared distances of such numbers, of any usual number of features, keep their digits in float32.
_LEAST, _MOST = 1e-15, 1e15


class Pool(NamedTuple):
    """What is asked of the permutation test."""

    device: torch.device


OPERATION = backends.register("permutation", InModule("torch", tiled), InModule("reference", reference))


@dataclass(frozen=True)
class TwoSampleResult:
    """The outcome of `two_sample_test`.

    Attributes:
        statistic: MMD^2 (V) of the two samples; for Energy() their energy distance.
        p_value: (1 + #{null >= statistic}) / (1 + P).
        null: (P,) float64, the statistic of every relabelling.
    """

    statistic: float
    p_value: float
    null: Tensor


def two_sample_test(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel | None = None,
    permutations: int | Tensor = 999,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    normalise: bool = True,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> TwoSampleResult:
    """Test whether two samples share a distribution, by relabelling the pooled rows; weights travel with their rows.

    The p-value has its exact level for exchangeable rows: it counts the sample's own labelling. Never forms an
    N x M matrix; one pass over the pooled pairs serves hundreds of relabellings.

    Source: Gretton et al., JMLR 13 (2012) 723, section 7; Phipson and Smyth, SAGMB 9 (2010) 39, for the p-value.

    Args:
        x: (N, D).
        y: (M, D), same dtype and device.
        kernel: default Energy(); a median bandwidth is taken once, from the pool.
        permutations: how many random relabellings P, or a boolean (P, N + M) that marks the rows of each relabelled
            first sample (rows of x come first in the pool).
        weight_x: (N,), any sign, or None.
        weight_y: (M,) or None.
        normalise: divide the weights of each sample by their mean, so that neither the statistic nor its null depends
            on their scale; otherwise rows that change sides count as much as their weights say.
        generator: draws the relabellings and the rows of a median bandwidth.
        backend: "auto", "torch" or "reference" (the full matrix).

    Returns:
        A `TwoSampleResult`.

    Raises:
        TypeError: as `mmd`; a number of permutations that is not whole.
        ValueError: as `mmd`; batched input; an entry that is NaN or infinite, or a statistic, since its numbers are
            beyond float64; fewer than one permutation; labels of another shape or dtype; a relabelled sample whose
            weights sum to zero.
    """
    kernel = Energy() if kernel is None else instance("kernel", kernel, Kernel, "Gaussian(1.0)")
    check_tensors(x=x, y=y)
    check_flags(normalise=normalise)
    check_generator(generator)
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"x and y must be (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    sample_x, sample_y = prepare_pair(x.detach(), y.detach(), weight_x, weight_y, "auto", "v")
    check_finite("x", x)
    check_finite("y", y)
    n, m = len(x), len(y)
    z_KD = torch.cat([sample_x.points, sample_y.points])
    weight_K = torch.cat([_weights(sample, normalise) for sample in (sample_x, sample_y)])
    z_KD, kernel = _fixed_bandwidth(z_KD, kernel, generator)
    if n + m <= SMALL or not _LEAST < float(z_KD.abs().max()) < _MOST:
        z_KD = z_KD.double()
    observed_1K = torch.cat([torch.ones(n, dtype=torch.bool), torch.zeros(m, dtype=torch.bool)])[None]
    first_PK = torch.cat([observed_1K, _labels(permutations, n, m, generator)])
    chosen, _ = backends.choose(OPERATION, backend, Pool(x.device))
    values = chosen.run(
        "statistics", z_KD.double() if chosen.name == "reference" else z_KD, weight_K, first_PK, kernel
    ).cpu()
    if not bool(values.isfinite().all()):
        raise ValueError("distances within x and y are beyond float64; divide both by the size of their values")
    statistic, null = values[0], values[1:]
    # Equal labellings are summed in the same order, but mirrored ones (n = m) are not: allow for their rounding.
    slack = (1e-12 if z_KD.dtype == torch.float64 else 1e-6) * statistic.abs()
    exceed = int((null >= statistic - slack).sum())
    return TwoSampleResult(float(statistic), (1 + exceed) / (1 + len(null)), null)


def _weights(sample: Sample, normalise: bool) -> Tensor:
    """(N,) float64."""
    if sample.weight is None:
        return torch.ones_like(sample.points[:, 0], dtype=torch.float64)
    weight_N = sample.weight.detach().double()
    return weight_N * (len(weight_N) / weight_N.sum()) if normalise else weight_N


def _labels(permutations: int | Tensor, n: int, m: int, generator: torch.Generator | None) -> Tensor:
    if isinstance(permutations, Tensor):
        if permutations.dtype != torch.bool or permutations.ndim != 2 or permutations.shape[1] != n + m:
            raise ValueError(
                f"permutations must be a number or bool (P, {n + m}), got {permutations.dtype} "
                f"{tuple(permutations.shape)}"
            )
        if len(permutations) < 1:
            raise ValueError("permutations must have at least 1 row, got 0")
        return permutations.cpu()
    first_PK = torch.zeros(whole_number("permutations", permutations), n + m, dtype=torch.bool)
    device = torch.device("cpu") if generator is None else generator.device
    for first_K in first_PK:
        first_K[torch.randperm(n + m, generator=generator, device=device)[:n].cpu()] = True
    return first_PK


def _fixed_bandwidth(z_KD: Tensor, kernel: Kernel, generator: torch.Generator | None) -> tuple[Tensor, Kernel]:
    if isinstance(kernel, Gaussian | Laplacian | InverseMultiquadric):
        bandwidths = kernel.bandwidths
        if isinstance(bandwidths, str):
            return z_KD, type(kernel)(float(median_distance(z_KD[None], None, generator)))
        if isinstance(bandwidths, Tensor):
            return z_KD, type(kernel)(bandwidths.reshape(-1).tolist())
    return z_KD, kernel
