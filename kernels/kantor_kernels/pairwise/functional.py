"""Energy distance, MMD and their potential: the documented public functions.

Shapes: `...` batch (equal for all arguments), N rows of x, M rows of y, D features; inside, B is the flat batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kantor_kernels import backends
from kantor_kernels.backends import Explanation
from kantor_kernels.pairwise import autograd, reference, tiled
from kantor_kernels.pairwise.kept import on_device
from kantor_kernels.pairwise.kernels import Energy, Gaussian, Kernel, median_distance

# Of the matrix products in `triton_products.py`, which cannot be imported where Triton is missing.
TRITON_FEATURES = 256
_PRECISIONS = {"auto": None, "float32": torch.float32, "float64": torch.float64}


def energy_distance(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    *,
    exponent: float = 1.0,
    estimator: str = "v",
    yy: Tensor | None = None,
    precision: str = "auto",
    method: str = "exact",
    n_slices: int | None = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """Energy distance 2 E|x - y|^beta - E|x - x'|^beta - E|y - y'|^beta between two weighted samples.

    Differentiable twice in x, y and the weights; a third order raises. Memory grows with (N + M) D, never with N M.
    Half of it is geomloss's "energy" loss; for D = 1 its square root is SciPy's `energy_distance`.

    Source: Szekely and Rizzo, "Energy statistics", J. Stat. Plan. Inference 143 (2013) 1249, eq. (5).

    Args:
        x: (..., N, D).
        y: (..., M, D), same batch shape, dtype and device.
        weight_x: (..., N), any sign, normalised by their sum; None means equal weights.
        weight_y: (..., M).
        exponent: beta in (0, 2).
        estimator: "v" (all pairs) or "u" (without i = j in the self terms: unbiased, may be negative).
        yy: `self_energy(y, weight_y, kernel=Energy(exponent), estimator=...)`, to spare its recomputation.
        precision: "auto" (half in float32, else as given), "float32" or "float64" arithmetic.
        method: "exact", or "sliced" for the estimate of `sliced_energy_distance` (differentiable once).
        n_slices, generator: of the sliced method.
        backend: "auto", "reference", "torch", "cpu" or "triton" (the last not for "sliced").

    Returns:
        (...), float32, or float64 for float64 input; sums are taken in float64.

    Raises:
        ValueError: shapes, dtypes or devices disagree, an empty sample, N < 2 with "u", weights that sum to zero,
            an unknown option, a backend that cannot run, a sliced method with another exponent than 1 or with yy.
    """
    if method == "sliced":
        from kantor_kernels.sliced.functional import sliced_energy_distance

        if exponent != 1.0:
            raise ValueError(f"slicing holds for exponent 1 alone, got {exponent}; use method='exact'")
        if yy is not None:
            raise ValueError("yy cannot be reused by the sliced method, which sorts both samples together")
        return sliced_energy_distance(
            x,
            y,
            weight_x,
            weight_y,
            n_slices=n_slices,
            estimator=estimator,
            precision=precision,
            generator=generator,
            backend=backend,
        )
    if method != "exact":
        raise ValueError(f'method must be "exact" or "sliced", got {method!r}')
    if n_slices is not None or generator is not None:
        raise ValueError("n_slices and generator belong to method='sliced'; the exact method draws nothing")
    return mmd(
        x,
        y,
        weight_x,
        weight_y,
        kernel=Energy(exponent),
        estimator=estimator,
        yy=yy,
        precision=precision,
        backend=backend,
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
        ValueError: as `energy_distance`.
    """
    kernel = Gaussian("median") if kernel is None else kernel
    sample_x, sample_y = _pair(x, y, weight_x, weight_y, precision, estimator)
    if yy is not None:
        if getattr(kernel, "bandwidths", None) == "median":
            raise ValueError("yy cannot be reused with a median bandwidth: it depends on x")
        if yy.shape != x.shape[:-2]:
            raise ValueError(f"yy must have the batch shape {tuple(x.shape[:-2])}, got {tuple(yy.shape)}")
    chosen, _ = _choose(backend, sample_x.points, kernel)
    out = _result_dtype(x)
    if chosen == "reference":
        if estimator == "v" and yy is None:
            return reference.mmd(sample_x.points, sample_y.points, sample_x.weight, sample_y.weight, kernel, "v").to(
                out
            )
        return _reference_mmd(sample_x, sample_y, kernel, estimator, yy).to(out)
    total_B = 0.0
    # One operator computes everything, unless a derivative by a weight is asked for.
    at_once = chosen in ("cpu", "triton") and kernel.radial and not (_weighs(sample_x) or _weighs(sample_y))
    for term in _terms(kernel, sample_x.flat, sample_y.flat, generator):
        if at_once:
            both_B = _at_once(sample_x, sample_y, term, estimator, yy is None, chosen)
        else:
            both_B = _self(sample_x, term.x, term, estimator, chosen) - 2 * _cross(sample_x, sample_y, term, chosen)
            if yy is None:
                both_B = both_B + _self(sample_y, term.y, term, estimator, chosen)
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
        ValueError: as `energy_distance`.
    """
    kernel = Energy() if kernel is None else kernel
    sample_x, sample_y = _pair(x, y, None, weight_y, precision, "v", normalise)
    chosen, _ = _choose(backend, sample_x.points, kernel)
    out = _result_dtype(x)
    if chosen == "reference":
        return reference.kernel_potential(
            sample_x.points, sample_y.points, sample_y.weight, kernel, normalise, skip_diagonal
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
            _first_order(term.x),
            chosen,
        )[0]
        total_BN = total_BN + term.factor * value_BN
    if normalise:
        total_BN = total_BN / sample_y.total.unsqueeze(-1)
    assert isinstance(total_BN, Tensor)
    return total_BN.reshape(x.shape[:-1]).to(out)


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
        ValueError: as `energy_distance`.
    """
    kernel = Energy() if kernel is None else kernel
    sample = _sample("y", y, weight_y, precision, estimator)
    chosen, _ = _choose(backend, sample.points, kernel)
    if chosen == "reference":
        return reference.self_energy(sample.points, sample.weight, kernel, estimator).double()
    total_B = 0.0
    for term in _terms(kernel, sample.flat, None, generator):
        total_B = total_B + term.factor * _self(sample, term.x, term, estimator, chosen)
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
        An `Explanation`: backend, reason, passes, pairs, peak bytes.

    Raises:
        ValueError: as `energy_distance`.
    """
    kernel = Energy() if kernel is None else kernel
    sample_x, sample_y = _pair(x, y, None, None, "auto", "v")
    chosen, reason = _choose(backend, sample_x.points, kernel)
    batch, n, d = sample_x.flat.shape
    m = sample_y.flat.shape[1]
    bandwidths = getattr(kernel, "bandwidths", None)
    terms = bandwidths.numel() if isinstance(bandwidths, Tensor) else 1
    cross = 2 if y.requires_grad else 1
    passes = (cross + 1 + (yy is None)) * terms
    pairs = batch * (cross * n * m + n * n + (m * m if yy is None else 0)) * terms
    itemsize = sample_x.flat.element_size()
    if chosen == "reference":
        peak = batch * max(n, m) ** 2 * (d + 2) * itemsize
    else:
        estimate: Callable[..., int] = getattr(
            backends.implementation("pairwise", chosen), "peak_bytes", tiled.peak_bytes
        )
        peak = estimate(batch, n, m, d, itemsize, x.device.type)
    return Explanation(chosen, reason, passes, pairs, peak)


class EnergyDistanceLoss(nn.Module):
    """`energy_distance` as a module; arguments as there.

    Args:
        exponent, estimator, precision, backend: keyword arguments of `energy_distance`.
    """

    def __init__(
        self, exponent: float = 1.0, estimator: str = "v", *, precision: str = "auto", backend: str = "auto"
    ) -> None:
        super().__init__()
        self.exponent, self.estimator = Energy(exponent).exponent, estimator
        self.precision, self.backend = precision, backend

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        weight_x: Tensor | None = None,
        weight_y: Tensor | None = None,
        yy: Tensor | None = None,
    ) -> Tensor:
        return energy_distance(
            x,
            y,
            weight_x,
            weight_y,
            exponent=self.exponent,
            estimator=self.estimator,
            yy=yy,
            precision=self.precision,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"exponent={self.exponent}, estimator={self.estimator!r}"


class MMDLoss(nn.Module):
    """`mmd` (squared) as a module; arguments as there.

    Args:
        kernel, estimator, precision, backend: keyword arguments of `mmd`.
    """

    def __init__(
        self,
        kernel: Kernel | None = None,
        estimator: str = "v",
        *,
        precision: str = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.kernel = Gaussian("median") if kernel is None else kernel
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
        return mmd(
            x,
            y,
            weight_x,
            weight_y,
            kernel=self.kernel,
            estimator=self.estimator,
            yy=yy,
            precision=self.precision,
            generator=generator,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, estimator={self.estimator!r}"


@dataclass(frozen=True)
class _Sample:
    """A checked sample in the dtype of the arithmetic."""

    points: Tensor  # (..., N, D)
    weight: Tensor | None  # (..., N)

    @property
    def flat(self) -> Tensor:
        return self.points.reshape(-1, *self.points.shape[-2:])

    @property
    def weight_flat(self) -> Tensor | None:
        return None if self.weight is None else self.weight.reshape(-1, self.weight.shape[-1])

    @property
    def total(self) -> Tensor:
        """sum w as (B,) float64."""
        weight_BN = self.weight_flat
        if weight_BN is None:
            batch, n = self.flat.shape[:2]
            return self.points.new_full((batch,), float(n), dtype=torch.float64)
        return weight_BN.sum(-1, dtype=torch.float64)

    @property
    def squares(self) -> Tensor:
        """sum w^2 as (B,) float64."""
        weight_BN = self.weight_flat
        return self.total if weight_BN is None else weight_BN.double().square().sum(-1)

    @property
    def pair_total(self) -> Tensor:
        """(sum w)^2 - sum w^2 as (B,) float64."""
        return self.total**2 - self.squares

    def self_total(self, estimator: str) -> Tensor:
        """What the sum over pairs of the sample is divided by."""
        return self.pair_total if estimator == "u" else self.total**2


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
            raise ValueError(f"the bandwidths are on {bandwidths.device}, the points on {x_BND.device}")
        if _may_wait(bandwidths) and not bool((bandwidths > 0).all()):
            raise ValueError(f"bandwidths must be positive, got {bandwidths.tolist()}")
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


def _cross(sample_x: _Sample, sample_y: _Sample, term: _Term, backend: str) -> Tensor:
    """sum_ij a_i b_j k(x_i, y_j) as (B,) float64."""
    x, y, b = term.x, term.y, sample_y.weight_flat
    a = sample_x.weight_flat
    if not _first_order(x) and _first_order(y):
        # Put the side that is differentiated in front: its gradient comes with the value.
        x, y, a, b = y, x, b, a
    value_BN = autograd.potential(x, y, b, term.family, term.constants, False, _first_order(x), backend)[0]
    weighted = value_BN if a is None else a * value_BN
    return weighted.sum(-1) / (sample_x.total * sample_y.total)


def _self(sample: _Sample, x_BND: Tensor, term: _Term, estimator: str, backend: str) -> Tensor:
    """sum_ij a_i a_j k(x_i, x_j), or its U statistic, as (B,) float64."""
    w_BN = sample.weight_flat
    value_B = autograd.self_potential(
        x_BND,
        w_BN,
        term.family,
        term.constants,
        w_BN is not None and _first_order(w_BN),
        _first_order(x_BND),
        backend,
    )[0]
    if estimator == "v" and term.diagonal is None:
        degree, offset = term.constants
        diagonal_BN = (x_BND.double().square().sum(-1) / x_BND.shape[-1] + offset) ** int(degree)
        value_B = value_B + (diagonal_BN if w_BN is None else w_BN.double().square() * diagonal_BN).sum(-1)
    elif estimator == "v" and term.diagonal:
        value_B = value_B + term.diagonal * sample.squares
    return value_B / sample.self_total(estimator)


def _at_once(sample_x: _Sample, sample_y: _Sample, term: _Term, estimator: str, want_yy: bool, backend: str) -> Tensor:
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
        (want_yy, _first_order(term.x), _first_order(term.y)),
        backend,
    )[0]
    if estimator == "v" and term.diagonal:
        share_B = squares_x / self_x
        value_B = value_B + term.diagonal * (share_B + squares_y / self_y if want_yy else share_B)
    return value_B


def _reference_mmd(sample_x: _Sample, sample_y: _Sample, kernel: Kernel, estimator: str, yy: Tensor | None) -> Tensor:
    if yy is None:
        return reference.mmd(sample_x.points, sample_y.points, sample_x.weight, sample_y.weight, kernel, estimator)
    potential = reference.kernel_potential(sample_x.points, sample_y.points, sample_y.weight, kernel, True, False)
    a = torch.ones_like(potential) if sample_x.weight is None else sample_x.weight
    cross = (a * potential).sum(-1) / a.sum(-1)
    return reference.self_energy(sample_x.points, sample_x.weight, kernel, estimator) + yy - 2 * cross


def _choose(backend: str, x: Tensor, kernel: Kernel) -> tuple[str, str]:
    chosen, reason = backends.choose("pairwise", backend, x.device)
    d = x.shape[-1]
    fits = d <= tiled.DIRECT_FEATURES or (d <= TRITON_FEATURES and x.dtype == torch.float32)
    if chosen != "triton" or (kernel.radial and fits):
        return chosen, reason
    limit = (
        f"the Triton kernels are for radial kernels on at most {tiled.DIRECT_FEATURES} features, "
        f"or {TRITON_FEATURES} in float32"
    )
    if backend == "triton":
        raise ValueError(f"backend 'triton' cannot run: {limit}")
    return "torch", limit


def _may_wait(x: Tensor) -> bool:
    """Whether values may be looked at: not while a call is compiled or captured, which a call outside came before."""
    return not torch.compiler.is_compiling() and not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def _weighs(sample: _Sample) -> bool:
    return sample.weight is not None and _first_order(sample.weight)


def _first_order(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _result_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _pair(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    precision: str,
    estimator: str,
    normalise: bool = True,
) -> tuple[_Sample, _Sample]:
    sample_x = _sample("x", x, weight_x, precision, estimator)
    sample_y = _sample("y", y, weight_y, precision, estimator, normalise)
    if x.dtype != y.dtype:
        raise ValueError(f"x and y must have one dtype, got {x.dtype} and {y.dtype}")
    if x.device != y.device:
        raise ValueError(f"x and y must be on one device, got {x.device} and {y.device}")
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"x (..., N, D) and y (..., M, D) must agree in D and batch, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return sample_x, sample_y


def _sample(
    name: str, points: Tensor, weight: Tensor | None, precision: str, estimator: str, normalise: bool = True
) -> _Sample:
    if estimator not in ("u", "v"):
        raise ValueError(f'estimator must be "u" or "v", got {estimator!r}')
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(_PRECISIONS)}, got {precision!r}")
    if points.ndim < 2:
        raise ValueError(f"{name} must have shape (..., N, D), got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"{name} must be floating, got {points.dtype}")
    if points.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(points.shape)}")
    if estimator == "u" and points.shape[-2] < 2:
        raise ValueError(f"the U estimator needs two rows, {name} has {points.shape[-2]}")
    dtype = _PRECISIONS[precision] or _result_dtype(points)
    if weight is None:
        return _Sample(points.to(dtype), None)
    if weight.shape != points.shape[:-1]:
        raise ValueError(f"weight_{name} must have shape {tuple(points.shape[:-1])}, got {tuple(weight.shape)}")
    if weight.device != points.device or not weight.is_floating_point():
        raise ValueError(f"weight_{name} must be floating on {points.device}, got {weight.dtype} on {weight.device}")
    sample = _Sample(points.to(dtype), weight.to(dtype))
    if normalise and _may_wait(weight):
        magnitude = weight.detach().double().abs().sum(-1).reshape(-1)
        if bool((sample.total.detach().abs() <= 1e-12 * magnitude).any()):
            raise ValueError(f"weight_{name} sums to zero: it cannot be normalised")
        if estimator == "u" and bool((sample.pair_total.detach().abs() < 1e-12 * magnitude**2).any()):
            raise ValueError(f"weight_{name}: (sum w)^2 - sum w^2 vanishes, the U estimator is undefined")
    return sample
