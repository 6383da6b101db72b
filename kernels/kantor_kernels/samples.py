"""Samples as the operations on pairs of them take them: checked, in the dtype of the arithmetic, with their weights.

Entries are read where the host needs them in any case: of weights that are to be normalised, and by `check_finite`.

Shapes: `...` batch, N rows, D features; B is the flat batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kantor_kernels import transforms
from kantor_kernels.arguments import check_choice, check_tensors

_ESTIMATORS = ("u", "v")
_PRECISIONS = {"auto": None, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Sample:
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

    @property
    def weight_wants_gradient(self) -> bool:
        return self.weight is not None and may_be_differentiated(self.weight)

    def self_total(self, estimator: str) -> Tensor:
        """What the sum over pairs of the sample is divided by."""
        return self.pair_total if estimator == "u" else self.total**2


def may_look(x: Tensor) -> bool:
    """Whether values may be looked at: not while a call is compiled, transformed (`vmap` gives no values) or captured,
    which a call outside came before."""
    if transforms.traced():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def wants_gradient(x: Tensor) -> bool:
    """Whether a derivative by x may be asked for in reverse, with what the pass for the value finds on its way."""
    return x.requires_grad and torch.is_grad_enabled() and not transforms.active()


def may_be_differentiated(x: Tensor) -> bool:
    """Whether a derivative by x may be asked for in any way: in forward mode, for one, a tangent does not show."""
    return (x.requires_grad and torch.is_grad_enabled()) or transforms.active()


def result_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def prepare_pair(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    precision: str,
    estimator: str,
    normalise: bool = True,
) -> tuple[Sample, Sample]:
    """Two samples that belong together; `normalise` is about the weights of y, as in `prepare`.

    Raises:
        TypeError, ValueError: as `prepare`; the samples differ in dtype, device, D or batch.
    """
    check_tensors(x=x, y=y)
    sample_x = prepare("x", x, weight_x, precision, estimator)
    sample_y = prepare("y", y, weight_y, precision, estimator, normalise)
    if x.dtype != y.dtype:
        raise ValueError(f"x and y must have one dtype, got {x.dtype} and {y.dtype}")
    if x.device != y.device:
        raise ValueError(f"x and y must be on one device, got {x.device} and {y.device}")
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"x (..., N, D) and y (..., M, D) must agree in D and batch, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return sample_x, sample_y


def prepare(
    name: str, points: Tensor, weight: Tensor | None, precision: str, estimator: str, normalise: bool = True
) -> Sample:
    """A sample, checked.

    Args:
        name: what messages call it, "x" or "y".
        points: (..., N, D), floating.
        weight: (..., N), of any sign, or None.
        precision: "auto" (half in float32, else as given), "float32" or "float64".
        estimator: "u" or "v".
        normalise: whether the weights are to be divided by their sum; they are not divided here.

    Raises:
        TypeError: points or weights are no tensors, an option is no word.
        ValueError: a shape, dtype or device is wrong, the sample is empty, N < 2 with "u", weights that sum to zero or
            are not finite, where they are normalised.
    """
    check_options(estimator, precision)
    check_tensors(**{name: points})
    if weight is not None:
        check_tensors(**{f"weight_{name}": weight})
    if points.ndim < 2:
        raise ValueError(f"{name} must have shape (..., N, D), got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"{name} must be floating, got {points.dtype}")
    if points.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(points.shape)}")
    if estimator == "u" and points.shape[-2] < 2:
        raise ValueError(f"the U estimator needs two rows, {name} has {points.shape[-2]}")
    dtype = _PRECISIONS[precision] or result_dtype(points)
    if weight is None:
        return Sample(points.to(dtype), None)
    if weight.shape != points.shape[:-1]:
        raise ValueError(f"weight_{name} must have shape {tuple(points.shape[:-1])}, got {tuple(weight.shape)}")
    if weight.device != points.device or not weight.is_floating_point():
        raise ValueError(f"weight_{name} must be floating on {points.device}, got {weight.dtype} on {weight.device}")
    sample = Sample(points.to(dtype), weight.to(dtype))
    if normalise and may_look(weight):
        magnitude = weight.detach().double().abs().sum(-1).reshape(-1)
        # Nothing compares with a NaN, and infinity is no more than itself: both end here, too.
        if not bool((sample.total.detach().abs() > 1e-12 * magnitude).all()):
            check_finite(f"weight_{name}", weight)
            raise ValueError(f"weight_{name} sums to zero: it cannot be normalised; pass weights with another sum")
        if estimator == "u" and bool((sample.pair_total.detach().abs() < 1e-12 * magnitude**2).any()):
            raise ValueError(
                f'weight_{name}: (sum w)^2 - sum w^2 vanishes, the U estimator is undefined; use estimator="v"'
            )
    return sample


def check_options(estimator: object, precision: object) -> None:
    """The options that all statistics of pairs of samples have.

    Raises:
        TypeError: one is no word.
        ValueError: one is unknown.
    """
    check_choice("estimator", estimator, _ESTIMATORS)
    check_choice("precision", precision, _PRECISIONS)


def check_shares(name: str, values: Tensor) -> None:
    """Every entry lies in [0, 1]; on other devices than the CPU, for which nothing is to wait, they are believed.

    Raises:
        ValueError: an entry does not.
    """
    if values.device.type != "cpu" or not may_look(values):
        return
    values = values.detach()
    if not values.clamp(0, 1).equal(values):
        least, most = values.aminmax()
        raise ValueError(f"{name} must lie in [0, 1], got values from {float(least):g} to {float(most):g}; clamp them")


def check_finite(name: str, values: Tensor) -> None:
    """Every entry is finite; waits for the device.

    Raises:
        ValueError: an entry is NaN or infinite.
    """
    bad = values.numel() - int(values.isfinite().sum())
    if bad:
        raise ValueError(f"{name} has {bad} of {values.numel()} entries that are NaN or infinite; leave those rows out")
