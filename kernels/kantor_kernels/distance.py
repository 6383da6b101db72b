"""The energy distance by whichever way is asked for: over all pairs, or sliced."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kantor_kernels.arguments import check_choice, check_generator, number
from kantor_kernels.pairwise import Energy, mmd
from kantor_kernels.samples import check_options
from kantor_kernels.sliced import sliced_energy_distance

_METHODS = ("exact", "sliced")


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
        precision: "auto" (half in float32, else as given), "float32" or "float64" arithmetic. Float32 takes distances
            below 1e-18 for 0 and overflows above 1e19, to infinity or NaN; float64 reaches from 1e-100 to 1e150.
        method: "exact", or "sliced" for the estimate of `sliced_energy_distance` (differentiable once).
        n_slices, generator: of the sliced method.
        backend: "auto", "reference", "torch", "cpu" or "triton" (the last not for "sliced").

    Returns:
        (...), float32, or float64 for float64 input; sums are taken in float64.

    Raises:
        TypeError: an argument of the wrong type, such as an array for a tensor.
        ValueError: shapes, dtypes or devices disagree, an empty sample, N < 2 with "u", weights that sum to zero or are
            not finite, an unknown option, a backend that cannot run, a sliced method with another exponent than 1 or
            with yy.
    """
    check_choice("method", method, _METHODS)
    check_generator(generator)
    if method == "sliced":
        if number("exponent", exponent) != 1.0:
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


class EnergyDistanceLoss(nn.Module):
    """`energy_distance` as a module; arguments as there.

    Args:
        exponent, estimator, precision, backend: keyword arguments of `energy_distance`.
    """

    def __init__(
        self, exponent: float = 1.0, estimator: str = "v", *, precision: str = "auto", backend: str = "auto"
    ) -> None:
        super().__init__()
        check_options(estimator, precision)
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
