"""Energy distance, MMD and their potential: the documented public functions.

Shapes: `...` batch (equal for all arguments), N rows of x, M rows of y, D features; inside, B is the flat batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kantor_kernels import backends, transforms
from kantor_kernels.arguments import check_flags, check_generator, check_tensors, instance
from kantor_kernels.backends import Backend, Explanation, InModule
from kantor_kernels.pairwise import autograd, line, reference, slope, tiled
from kantor_kernels.pairwise.constants import on_device
from kantor_kernels.pairwise.kernels import Energy, Gaussian, Kernel, median_distance
from kantor_kernels.samples import (
    Sample,
    check_options,
    may_look,
    prepare,
    prepare_pair,
    result_dtype,
    wants_gradient,
)

# Of the matrix products in `triton_products.py`, which cannot be imported where Triton is missing.
TRITON_FEATURES = 256


class Pairs(NamedTuple):
    """What is asked of the pairwise sums."""

    device: torch.device
    dtype: torch.dtype
    features: int
    radial: bool


def _beyond_triton(problem: Pairs) -> str | None:
    d = problem.features
    fits = d <= tiled.DIRECT_FEATURES or (d <= TRITON_FEATURES and problem.dtype == torch.float32)
    if problem.radial and fits:
        return None
    return (
        f"the Triton kernels are for radial kernels on at most {tiled.DIRECT_FEATURES} features, "
        f"or {TRITON_FEATURES} in float32"
    )


OPERATION = backends.register(
    "pairwise",
    InModule("triton", "kantor_kernels.pairwise.triton", "triton", ("cuda",), _beyond_triton),
    InModule("cpu", "kantor_kernels.pairwise.cpu", "numba", ("cpu",)),
    InModule("torch", tiled),
    InModule("reference", reference),
)


class Slopes(NamedTuple):
    """What is asked of `kernel_slope`; `pairs` are those of one sample with the other."""

    device: torch.device
    energy: bool
    pairs: int


def _beyond_cpu_slope(problem: Slopes) -> str | None:
    if not problem.energy:
        return "it is for the energy kernel with exponent 1"
    if problem.pairs > slope.PAIRS:
        return f"it holds the pairs, at most {slope.PAIRS}"
    return "it is not for compiled functions and transforms" if transforms.traced() else None


SLOPE = backends.register(
    "kernel_slope",
    InModule("cpu", "kantor_kernels.pairwise.cpu_slope", "numba", ("cpu",), _beyond_cpu_slope),
    InModule("torch", slope),
    InModule("reference", reference),
)


def mmd(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    *,
    kernel: Kernel | None = None,
    estimator: str = "v",
    yy: Tensor | None = None,
    precision: str = "auto",
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """Squared maximum mean discrepancy E k(x, x') + E k(y, y') - 2 E k(x, y) between two weighted samples.

    Differentiable twice in x, y, the weights and tensor-valued bandwidths. `mmd(kernel=Energy())` is
    `energy_distance`.

    Source: Gretton et al., "A kernel two-sample test", JMLR 13 (2012) 723, eqs. (3) and (5).

    Args:
        x, y, weight_x, weight_y, estimator, precision, backend: as in `energy_distance`.
        kernel: default Gaussian("median").
        yy: `self_energy(y, weight_y, kernel=kernel, ...)`; refused with a median bandwidth, which depends on x.
        generator: draws the rows of a median bandwidth.

    Returns:
        (...), float32, or float64 for float64 input; not a square root, never clamped.

    Raises:
        TypeError, ValueError: as `energy_distance`; a kernel that is none.
    """
    kernel = _checked(kernel, Gaussian("median"))
    check_generator(generator)
    sample_x, sample_y = prepare_pair(x, y, weight_x, weight_y, precision, estimator)
    _check_yy(yy, x, kernel)
    chosen, _ = _choose(backend, sample_x, kernel)
    out = result_dtype(x)
    if chosen.name == "reference":
        return _reference_mmd(chosen, sample_x, sample_y, kernel, estimator, yy).to(out)
    total_B = 0.0
    # One operator computes everything, unless a derivative by a weight is asked for.
    at_once = (
        chosen.name in ("cpu", "triton")
        and kernel.radial
        and not (sample_x.weight_wants_gradient or sample_y.weight_wants_gradient)
    )
    for term in _terms(kernel, sample_x.flat, sample_y.flat, generator):
        if at_once:
            both_B = _at_once(sample_x, sample_y, term, estimator, yy is None, chosen.name)
        else:
            both_B = _self(sample_x, term.x, term, estimator, chosen.name) - 2 * _cross(
                sample_x, sample_y, term, chosen.name
            )
            if yy is None:
                both_B = both_B + _self(sample_y, term.y, term, estimator, chosen.name)
        total_B = total_B + term.factor * both_B
    assert isinstance(total_B, Tensor)
    total = total_B.reshape(x.shape[:-2])
    return (total if yy is None else total + yy).to(out)


def kernel_potential(
    x: Tensor,
    y: Tensor,
    weight_y: Tensor | None = None,
    *,
    kernel: Kernel | None = None,
    normalise: bool = True,
    skip_diagonal: bool = False,
    precision: str = "auto",
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """The kernel mean embedding of y at each row of x: sum_j b_j k(x_i, y_j).

    Args:
        x: (..., N, D).
        y: (..., M, D).
        weight_y: (..., M) or None for equal weights.
        kernel: default Energy(), so the result is minus the mean distance to y.
        normalise: b = w / sum w; otherwise b = w (1 without weights).
        skip_diagonal: leave out i = j (the weights are still normalised by their full sum).
        precision, generator, backend: as in `mmd`.

    Returns:
        (..., N), float32, or float64 for float64 input; differentiable twice in x, y, weights and bandwidths.

    Raises:
        TypeError, ValueError: as `mmd`.
    """
    kernel = _checked(kernel, Energy())
    check_flags(normalise=normalise, skip_diagonal=skip_diagonal)
    check_generator(generator)
    sample_x, sample_y = prepare_pair(x, y, None, weight_y, precision, "v", normalise)
    chosen, _ = _choose(backend, sample_x, kernel)
    out = result_dtype(x)
    if chosen.name == "reference":
        return chosen.run(
            "kernel_potential", sample_x.points, sample_y.points, sample_y.weight, kernel, normalise, skip_diagonal
        ).to(out)
    total_BN = 0.0
    for term in _terms(kernel, sample_x.flat, sample_y.flat, generator):
        value_BN = autograd.potential(
            term.x,
            term.y,
            sample_y.weight_flat,
            term.family,
            term.constants,
            skip_diagonal,
            wants_gradient(term.x),
            chosen.name,
        )[0]
        total_BN = total_BN + term.factor * value_BN
    if normalise:
        total_BN = total_BN / sample_y.total.unsqueeze(-1)
    assert isinstance(total_BN, Tensor)
    return total_BN.reshape(x.shape[:-1]).to(out)


def kernel_slope(
    x: Tensor,
    y: Tensor,
    weight_y: Tensor | None = None,
    *,
    kernel: Kernel | None = None,
    normalise: bool = True,
    skip_diagonal: bool = False,
    precision: str = "auto",
    backend: str = "auto",
) -> Tensor:
    """The derivative of `kernel_potential` by x, sum_j b_j dk(x_i, y_j) / dx_i, for losses that are made of it.

    Its own derivatives by x, y and the weights come from ordinary operations on tiles of pairs, several times faster
    than by the second derivatives of the potential: where a witness function's slope is penalised, say. Memory grows
    with (N + M) D and one tile; with "cpu" with N M. Rows that coincide with a kink of the kernel have slope and
    derivative 0 there.

    Args:
        x: (..., N, D).
        y: (..., M, D), same batch shape, dtype and device.
        weight_y: (..., M) or None for equal weights.
        kernel: default Energy(); radial, its bandwidths numbers.
        normalise, skip_diagonal, precision: as in `kernel_potential`.
        backend: "auto", "cpu" (the energy kernel, up to 4 million pairs, which it holds), "torch", or "reference" (the
            definition, any order of derivative).

    Returns:
        (..., N, D), float32, or float64 for float64 input; but with "reference" differentiable once.

    Raises:
        TypeError, ValueError: as `mmd`; a kernel that is not radial, a tensor or median bandwidth.
        NotImplementedError: a second derivative of the result was asked for (but with "reference").
    """
    kernel = _checked(kernel, Energy())
    check_flags(normalise=normalise, skip_diagonal=skip_diagonal)
    if not kernel.radial or isinstance(getattr(kernel, "bandwidths", None), str | Tensor):
        raise ValueError(f"kernel_slope is for radial kernels whose bandwidths are numbers, got {kernel}")
    sample_x, sample_y = prepare_pair(x, y, None, weight_y, precision, "v", normalise)
    points = sample_x.points
    is_energy = isinstance(kernel, Energy) and kernel.exponent == 1.0
    problem = Slopes(points.device, is_energy, points.shape[-2] * sample_y.points.shape[-2])
    chosen, _ = backends.choose(SLOPE, backend, problem)
    if chosen.name == "reference":
        arguments = points, sample_y.points, sample_y.weight, kernel, normalise, skip_diagonal
        return chosen.run("kernel_slope", *arguments).to(result_dtype(x))
    weight_BM = sample_y.weight_flat
    slopes = [
        chosen.run("kernel_slope", x_ND, y_MD, None if weight_BM is None else weight_BM[index], kernel, skip_diagonal)
        for index, (x_ND, y_MD) in enumerate(zip(sample_x.flat, sample_y.flat, strict=True))
    ]
    slope_BND = torch.stack(slopes)
    if normalise:
        slope_BND = slope_BND / sample_y.total.to(slope_BND.dtype)[:, None, None]
    return slope_BND.reshape(x.shape).to(result_dtype(x))


def self_energy(
    y: Tensor,
    weight_y: Tensor | None = None,
    *,
    kernel: Kernel | None = None,
    estimator: str = "v",
    precision: str = "auto",
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """The self term sum_jk b_j b_k k(y_j, y_k) of `mmd`, reusable as its `yy`.

    For the default kernel Energy() it is minus the mean distance within y.

    Args:
        y: (..., M, D).
        weight_y: (..., M) or None.
        kernel: default Energy().
        estimator: "v", or "u" to leave out j = k and divide by (sum w)^2 - sum w^2.
        precision, generator, backend: as in `mmd`.

    Returns:
        (...), always float64, so that a difference of two of them keeps its digits.

    Raises:
        TypeError, ValueError: as `mmd`.
    """
    kernel = _checked(kernel, Energy())
    check_generator(generator)
    sample = prepare("y", y, weight_y, precision, estimator)
    chosen, _ = _choose(backend, sample, kernel)
    if chosen.name == "reference":
        return chosen.run("self_energy", sample.points, sample.weight, kernel, estimator).double()
    total_B = 0.0
    for term in _terms(kernel, sample.flat, None, generator):
        total_B = total_B + term.factor * _self(sample, term.x, term, estimator, chosen.name)
    assert isinstance(total_B, Tensor)
    return total_B.reshape(y.shape[:-2])


def explain(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel | None = None,
    yy: Tensor | None = None,
    backend: str = "auto",
) -> Explanation:
    """What `mmd(x, y, kernel=kernel, yy=yy)` (default: the energy distance) would do, without doing it.

    Args:
        x, y: tensors; where they require gradients, the passes of one backward are counted.

    Returns:
        An `Explanation`: backend, reason, passes, pairs, peak bytes. On a line, which is sorted, there are no pairs.

    Raises:
        TypeError, ValueError: as `mmd`.
    """
    kernel = _checked(kernel, Energy())
    sample_x, sample_y = prepare_pair(x, y, None, None, "auto", "v")
    _check_yy(yy, x, kernel)
    chosen, reason = _choose(backend, sample_x, kernel)
    batch, n, d = sample_x.flat.shape
    m = sample_y.flat.shape[1]
    if chosen.name != "reference" and kernel.family == "energy" and line.applies(d, kernel.family, kernel.constants):
        return Explanation(chosen.name, f"{reason}; sorted", 0, 0, batch * (n + m) * line.BYTES_PER_ROW)
    bandwidths = getattr(kernel, "bandwidths", None)
    terms = bandwidths.numel() if isinstance(bandwidths, Tensor) else 1
    cross = 2 if y.requires_grad else 1
    passes = (cross + 1 + (yy is None)) * terms
    pairs = batch * (cross * n * m + n * n + (m * m if yy is None else 0)) * terms
    itemsize = sample_x.flat.element_size()
    if chosen.name == "reference":
        peak = batch * max(n, m) ** 2 * (d + 2) * itemsize
    else:
        peak = chosen.run("peak_bytes", batch, n, m, d, itemsize, x.device.type)
    return Explanation(chosen.name, reason, passes, pairs, peak)


class MMDLoss(nn.Module):
    """`mmd` (squared) as a module; arguments as there.

    A bandwidth that is an `nn.Parameter` is the module's parameter `bandwidths`, another tensor its buffer, which is
    not saved: both move with the module.

    Args:
        kernel, estimator, precision, backend: keyword arguments of `mmd`.
    """

    bandwidths: Tensor | None

    def __init__(
        self,
        kernel: Kernel | None = None,
        estimator: str = "v",
        *,
        precision: str = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_options(estimator, precision)
        self.kernel = _checked(kernel, Gaussian("median"))
        bandwidths = getattr(self.kernel, "bandwidths", None)
        if isinstance(bandwidths, nn.Parameter):
            self.register_parameter("bandwidths", bandwidths)
        else:
            self.register_buffer("bandwidths", bandwidths if isinstance(bandwidths, Tensor) else None, persistent=False)
        self.estimator, self.precision, self.backend = estimator, precision, backend

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        weight_x: Tensor | None = None,
        weight_y: Tensor | None = None,
        yy: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        kernel: Any = self.kernel
        return mmd(
            x,
            y,
            weight_x,
            weight_y,
            kernel=kernel if self.bandwidths is None else replace(kernel, bandwidths=self.bandwidths),
            estimator=self.estimator,
            yy=yy,
            precision=self.precision,
            generator=generator,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, estimator={self.estimator!r}"


def _checked(kernel: object, default: Kernel) -> Kernel:
    return default if kernel is None else instance("kernel", kernel, Kernel, "Gaussian(1.0)")


def _check_yy(yy: Tensor | None, x: Tensor, kernel: Kernel) -> None:
    if yy is None:
        return
    check_tensors(yy=yy)
    if isinstance(getattr(kernel, "bandwidths", None), str):
        raise ValueError("yy cannot be reused with a median bandwidth: it depends on x; pass a number as bandwidth")
    if yy.shape != x.shape[:-2] or yy.device != x.device or not yy.is_floating_point():
        raise ValueError(
            f"yy must have the batch shape {tuple(x.shape[:-2])}, floating on {x.device}, got {tuple(yy.shape)} "
            f"{yy.dtype} on {yy.device}; make it with self_energy(y, ...)"
        )


@dataclass(frozen=True)
class _Term:
    """One registered kernel on (possibly scaled) points; a kernel is the sum of `factor` times its terms."""

    x: Tensor  # (B, N, D)
    y: Tensor  # (B, M, D)
    family: str
    constants: tuple[float, ...]
    factor: float
    diagonal: float | None  # k(x, x), None for the polynomial


def _terms(kernel: Kernel, x_BND: Tensor, y_BMD: Tensor | None, generator: torch.Generator | None) -> list[_Term]:
    other_BMD = x_BND if y_BMD is None else y_BMD
    diagonal = kernel.diagonal if kernel.radial else None
    bandwidths = getattr(kernel, "bandwidths", None)
    if isinstance(bandwidths, str):
        scale_KB = median_distance(x_BND, y_BMD, generator).unsqueeze(0)
    elif isinstance(bandwidths, Tensor):
        if bandwidths.device != x_BND.device:
            raise ValueError(
                f"bandwidths must be on {x_BND.device} as the points, got {bandwidths.device}; move them there"
            )
        if may_look(bandwidths) and not bool((bandwidths > 0).all()):
            raise ValueError(f"bandwidths must be positive, got {bandwidths.tolist()}; clamp or exponentiate them")
        scale_KB = bandwidths.reshape(-1, 1).to(x_BND.dtype)
    else:
        return [_Term(x_BND, other_BMD, kernel.family, kernel.constants, 1.0, diagonal)]
    # k depends on (x - y) / s alone: scaling the points carries every derivative by s. Centring first keeps the
    # division from rounding away the differences of points far from the origin.
    centre_B1D = torch.cat([x_BND, other_BMD], 1).detach().mean(1, keepdim=True, dtype=torch.float64).to(x_BND.dtype)
    terms = []
    for scale_B in scale_KB:
        scale_B11 = scale_B[:, None, None]
        x_scaled = (x_BND - centre_B1D) / scale_B11
        y_scaled = x_scaled if y_BMD is None else (y_BMD - centre_B1D) / scale_B11
        terms.append(_Term(x_scaled, y_scaled, kernel.family, (1.0,), 1.0 / len(scale_KB), diagonal))
    return terms


def _cross(sample_x: Sample, sample_y: Sample, term: _Term, backend: str) -> Tensor:
    """sum_ij a_i b_j k(x_i, y_j) as (B,) float64."""
    x, y, b = term.x, term.y, sample_y.weight_flat
    a = sample_x.weight_flat
    if not wants_gradient(x) and wants_gradient(y):
        # Put the side that is differentiated in front: its gradient comes with the value.
        x, y, a, b = y, x, b, a
    value_BN = autograd.potential(x, y, b, term.family, term.constants, False, wants_gradient(x), backend)[0]
    weighted = value_BN if a is None else a * value_BN
    return weighted.sum(-1) / (sample_x.total * sample_y.total)


def _self(sample: Sample, x_BND: Tensor, term: _Term, estimator: str, backend: str) -> Tensor:
    """sum_ij a_i a_j k(x_i, x_j), or its U statistic, as (B,) float64."""
    w_BN = sample.weight_flat
    value_B = autograd.self_potential(
        x_BND,
        w_BN,
        term.family,
        term.constants,
        w_BN is not None and wants_gradient(w_BN),
        wants_gradient(x_BND),
        backend,
    )[0]
    if estimator == "v" and term.diagonal is None:
        degree, offset = term.constants
        diagonal_BN = (x_BND.double().square().sum(-1) / x_BND.shape[-1] + offset) ** int(degree)
        value_B = value_B + (diagonal_BN if w_BN is None else w_BN.double().square() * diagonal_BN).sum(-1)
    elif estimator == "v" and term.diagonal:
        value_B = value_B + term.diagonal * sample.squares
    return value_B / sample.self_total(estimator)


def _at_once(sample_x: Sample, sample_y: Sample, term: _Term, estimator: str, want_yy: bool, backend: str) -> Tensor:
    """The squared MMD of a radial term as (B,) float64, not differentiable by the weights."""
    if sample_x.weight is None and sample_y.weight is None:
        n, m = term.x.shape[1], term.y.shape[1]
        self_x, self_y = (rows * (rows - 1) if estimator == "u" else rows**2 for rows in (n, m))
        squares_x, squares_y = n, m
        factors = (1 / self_x, 1 / (n * m), 1 / self_y)
        factor_B3 = on_device(factors, torch.float64, term.x.device).expand(len(term.x), 3)
    else:
        self_x, self_y = sample_x.self_total(estimator), sample_y.self_total(estimator)
        squares_x, squares_y = sample_x.squares, sample_y.squares
        factor_B3 = torch.stack([self_x, sample_x.total * sample_y.total, self_y], -1).reciprocal()
    value_B = autograd.mmd(
        term.x,
        term.y,
        sample_x.weight_flat,
        sample_y.weight_flat,
        factor_B3,
        term.family,
        term.constants,
        (want_yy, wants_gradient(term.x), wants_gradient(term.y)),
        backend,
    )[0]
    if estimator == "v" and term.diagonal:
        share_B = squares_x / self_x
        value_B = value_B + term.diagonal * (share_B + squares_y / self_y if want_yy else share_B)
    return value_B


def _reference_mmd(
    chosen: Backend, sample_x: Sample, sample_y: Sample, kernel: Kernel, estimator: str, yy: Tensor | None
) -> Tensor:
    if yy is None:
        return chosen.run("mmd", sample_x.points, sample_y.points, sample_x.weight, sample_y.weight, kernel, estimator)
    potential = chosen.run("kernel_potential", sample_x.points, sample_y.points, sample_y.weight, kernel, True, False)
    a = torch.ones_like(potential) if sample_x.weight is None else sample_x.weight
    cross = (a * potential).sum(-1) / a.sum(-1)
    return chosen.run("self_energy", sample_x.points, sample_x.weight, kernel, estimator) + yy - 2 * cross


def _choose(backend: str, sample: Sample, kernel: Kernel) -> tuple[Backend, str]:
    points = sample.points
    return backends.choose(OPERATION, backend, Pairs(points.device, points.dtype, points.shape[-1], kernel.radial))
