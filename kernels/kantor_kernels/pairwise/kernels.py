"""The kernels k(x, y) of the pairwise statistics, as small immutable values.

A kernel says what it is; how it is summed over pairs is the business of `reference.py` and the backends. Radial
kernels are known to the backends as a `family` name with positive constants, a mean over the constants where there
are several. A bandwidth that is a tensor, or "median", is applied by scaling the points, so its derivatives are
those of the scaling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kantor_kernels.arguments import finite_number, number
from kantor_kernels.samples import may_look

Bandwidths = float | Sequence[float] | Tensor | str


class Kernel:
    """A symmetric kernel k(x, y). Use one of the subclasses."""

    family: ClassVar[str]

    @property
    def radial(self) -> bool:
        """Whether k depends on |x - y| alone."""
        return True

    @property
    def diagonal(self) -> float:
        """k(x, x) of a radial kernel."""
        return 1.0

    @property
    def constants(self) -> tuple[float, ...]:
        """The constants that the backends get; only for a kernel without tensor-valued bandwidths."""
        raise NotImplementedError


@dataclass(frozen=True)
class Energy(Kernel):
    """k(x, y) = -|x - y|^exponent, conditionally positive definite for 0 < exponent < 2.

    Source: Szekely and Rizzo, "Energy statistics", J. Stat. Plan. Inference 143 (2013) 1249, eq. (5).

    Args:
        exponent: in (0, 2); 1 gives the energy distance proper.

    Raises:
        TypeError: the exponent is no number, or is to be differentiated by.
        ValueError: the exponent is not in (0, 2).
    """

    exponent: float = 1.0
    family: ClassVar[str] = "energy"

    def __post_init__(self) -> None:
        if not 0.0 < number("exponent", self.exponent) < 2.0:
            raise ValueError(f"Energy: the exponent must be in (0, 2), got {self.exponent}")

    @property
    def diagonal(self) -> float:
        return 0.0

    @property
    def constants(self) -> tuple[float, ...]:
        return (float(self.exponent),)


@dataclass(frozen=True, eq=False)
class _Scaled(Kernel):
    """A radial kernel of d / s, the mean over the bandwidths s."""

    bandwidths: Bandwidths = 1.0

    def __post_init__(self) -> None:
        name, bandwidths = type(self).__name__, self.bandwidths
        if isinstance(bandwidths, str):
            if bandwidths != "median":
                raise ValueError(f'{name}: bandwidths must be numbers, a tensor or "median", got {bandwidths!r}')
        elif isinstance(bandwidths, Tensor):
            if bandwidths.ndim > 1 or bandwidths.numel() == 0 or not bandwidths.is_floating_point():
                raise ValueError(f"{name}: a bandwidth tensor must be floating and of shape () or (K,)")
        else:
            values = _floats("bandwidths", bandwidths)
            if not values or not all(0.0 < value < math.inf for value in values):
                raise ValueError(f"{name}: bandwidths must be positive and finite, got {self.bandwidths}")

    @property
    def constants(self) -> tuple[float, ...]:
        if isinstance(self.bandwidths, str | Tensor):
            raise TypeError(f"{type(self).__name__}: a tensor or median bandwidth has no constants")
        return _floats("bandwidths", self.bandwidths)


@dataclass(frozen=True, eq=False)
class Gaussian(_Scaled):
    """k(x, y) = exp(-|x - y|^2 / (2 s^2)), the mean over the bandwidths s.

    Source: Gretton et al., "A kernel two-sample test", JMLR 13 (2012) 723.

    Args:
        bandwidths: s in the units of x: a number, a list, a tensor of shape () or (K,) (differentiable), or "median",
            the median distance among at most 2,000 rows of the joined sample, detached.

    Raises:
        TypeError: a bandwidth is no number.
        ValueError: a bandwidth is not positive, or the string is not "median".
    """

    bandwidths: Bandwidths = "median"
    family: ClassVar[str] = "gaussian"


@dataclass(frozen=True, eq=False)
class Laplacian(_Scaled):
    """k(x, y) = exp(-|x - y| / s), the mean over the bandwidths s.

    At coincident points the value is 1 and the derivatives are 0. Arguments and errors as for `Gaussian`.
    """

    bandwidths: Bandwidths = "median"
    family: ClassVar[str] = "laplacian"


@dataclass(frozen=True, eq=False)
class InverseMultiquadric(_Scaled):
    """k(x, y) = (1 + |x - y|^2 / s^2)^(-1/2), the mean over the bandwidths s.

    Arguments and errors as for `Gaussian`.
    """

    family: ClassVar[str] = "inverse_multiquadric"


@dataclass(frozen=True)
class RationalQuadratic(Kernel):
    """k(x, y) = (1 + |x - y|^2 / (2 alpha))^-alpha, the mean over the alphas.

    Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4.

    Args:
        alphas: a positive number or several.

    Raises:
        TypeError: an alpha is no number, or is to be differentiated by.
        ValueError: an alpha is not positive.
    """

    alphas: float | Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0)
    family: ClassVar[str] = "rational_quadratic"

    def __post_init__(self) -> None:
        values = _floats("alphas", self.alphas)
        if not values or not all(0.0 < value < math.inf for value in values):
            raise ValueError(f"RationalQuadratic: alphas must be positive and finite, got {self.alphas}")

    @property
    def constants(self) -> tuple[float, ...]:
        return _floats("alphas", self.alphas)


@dataclass(frozen=True)
class Polynomial(Kernel):
    """k(x, y) = (x . y / D + offset)^degree, a dot-product kernel (not translation invariant).

    Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018: degree 3, offset 1 is the kernel of KID.

    Args:
        degree: a positive integer.
        offset: c.

    Raises:
        TypeError: degree or offset is no number.
        ValueError: the degree is not a positive integer, or the offset is not finite.
    """

    degree: int = 3
    offset: float = 1.0
    family: ClassVar[str] = "polynomial"

    def __post_init__(self) -> None:
        finite_number("offset", self.offset)
        if not finite_number("degree", self.degree).is_integer() or self.degree < 1:
            raise ValueError(f"Polynomial: the degree must be a positive integer, got {self.degree}")

    @property
    def radial(self) -> bool:
        return False

    @property
    def diagonal(self) -> float:
        raise TypeError("Polynomial: k(x, x) depends on x")

    @property
    def constants(self) -> tuple[float, ...]:
        return (float(self.degree), float(self.offset))


def _floats(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str):
        return tuple(number(name, value) for value in values)
    return (number(name, values),)


def median_distance(
    x_BND: Tensor, y_BMD: Tensor | None, generator: torch.Generator | None = None, rows: int = 2000
) -> Tensor:
    """The median distance among at most `rows` rows of the joined sample, one per batch element, detached.

    Args:
        x_BND, y_BMD: the points; without y the sample is x alone.
        generator: draws the rows when there are more than `rows` of them.

    Returns:
        (B,), in the dtype of x.

    Raises:
        ValueError: the median distance is 0 or not finite, so it cannot serve as a bandwidth.
    """
    joined_BKD = (x_BND if y_BMD is None else torch.cat([x_BND, y_BMD], dim=1)).detach()
    if joined_BKD.shape[1] > rows:
        device = generator.device if generator is not None else joined_BKD.device
        chosen = torch.randperm(joined_BKD.shape[1], generator=generator, device=device)[:rows]
        joined_BKD = joined_BKD[:, chosen.to(joined_BKD.device)]
    if joined_BKD.shape[1] < 2:
        raise ValueError("a median bandwidth needs at least two rows")
    median_B = torch.stack([torch.pdist(sample.contiguous()).median() for sample in joined_BKD])
    if may_look(median_B) and not bool(((median_B > 0) & median_B.isfinite()).all()):
        raise ValueError(f"the median distance {median_B.tolist()} cannot serve as a bandwidth; pass a number")
    return median_B
