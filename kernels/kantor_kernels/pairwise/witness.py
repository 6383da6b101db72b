"""MMD^2 of two samples whose rows belong together, and the slope of its witness: what an all-pairs critic is made of.

Shapes: M rows of x and of y, of which the first R are this call's, P points (R, or none), D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kantor_kernels import backends, transforms
from kantor_kernels.arguments import check_optional_tensors, instance, whole_number
from kantor_kernels.backends import InModule
from kantor_kernels.pairwise import reference, separate
from kantor_kernels.pairwise.kernels import Energy, Kernel
from kantor_kernels.samples import prepare_pair, result_dtype


class Witness(NamedTuple):
    """The result of `kernel_witness`.

    Attributes:
        mmd: MMD^2, or the first rows' share of it, a scalar.
        slope: of the witness at the points, (P, D).
    """

    mmd: Tensor
    slope: Tensor


class Pairs(NamedTuple):
    """What is asked for."""

    device: torch.device
    energy: bool


def _beyond_cpu(problem: Pairs) -> str | None:
    if not problem.energy:
        return "it is for the energy kernel with exponent 1"
    return "it is not for compiled functions and transforms" if transforms.active() or transforms.traced() else None


OPERATION = backends.register(
    "kernel_witness",
    InModule("cpu", "kantor_kernels.pairwise.cpu_witness", "numba", ("cpu",), _beyond_cpu),
    InModule("separate", separate),
    InModule("reference", reference),
)


def kernel_witness(
    x: Tensor,
    y: Tensor,
    weight_x: Tensor | None = None,
    weight_y: Tensor | None = None,
    *,
    at: Tensor | None = None,
    rows: int | None = None,
    kernel: Kernel | None = None,
    backend: str = "auto",
) -> Witness:
    """MMD^2 of two samples over all pairs of rows with different indices, and the slope of its witness at points.

        mmd = sum a_i a_j k(x_i, x_j) / A + sum b_i b_j k(y_i, y_j) / B - 2 sum a_i b_j k(x_i, y_j) / C,
        slope_i = sum a_j dk(p_i, x_j) / dp_i / A_i - sum b_j dk(p_i, y_j) / dp_i / B_i,

    every sum over j != i and divided by that of its weights: rows of one index belong together (they share conditions,
    and p_i lies between x_i and y_i), and are not compared.

    Where ranks share a batch, each passes the rows of all ranks, its own first, with their number in `rows`. Its value
    is the sum over pairs that begin at its rows, and the values of all ranks add up to MMD^2. The derivative of the
    value goes to its own rows alone, each pair counted from both ends, so that those of all ranks add up, too.

    Sources: Gretton et al., JMLR 13 (2012) 723, eq. (3) and section 2.3; for k = -d Szekely and Rizzo, J. Stat. Plan.
    Inference 143 (2013) 1249.

    Args:
        x: (M, D).
        y: (M, D), same dtype and device.
        weight_x: (M,), of any sign, or None for equal weights; not differentiable.
        weight_y: (M,), as weight_x.
        at: (R, D), the points, or None for none.
        rows: R, None for M.
        kernel: default Energy(); radial, its bandwidths numbers.
        backend: "auto", "cpu" (the energy kernel, in one pass), "separate" (sums of `kernel_potential` and
            `kernel_slope`), or "reference" (the definition).

    Returns:
        A `Witness` in float32, or in float64 for float64 input, differentiable once by x, y and the points.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes, dtypes or devices disagree, fewer than two rows, weights of other rows that sum to zero, a
            kernel that is not radial, a tensor or median bandwidth, a backend that cannot run.
        NotImplementedError: a second derivative was asked for ("cpu").
    """
    kernel = instance("kernel", Energy() if kernel is None else kernel, Kernel, "Energy()")
    if not kernel.radial or isinstance(getattr(kernel, "bandwidths", None), str | Tensor):
        raise ValueError(f"kernel_witness is for radial kernels whose bandwidths are numbers, got {kernel}")
    sample_x, sample_y = prepare_pair(x, y, weight_x, weight_y, "auto", "u")
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"x and y must both be (M, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    rows = len(x) if rows is None else whole_number("rows", rows)
    if rows > len(x):
        raise ValueError(f"rows must be at most {len(x)}, got {rows}")
    check_optional_tensors(at=at)
    if at is None:
        at = x.new_empty(0, x.shape[1])
    elif at.shape != (rows, x.shape[1]) or at.dtype != x.dtype or at.device != x.device:
        raise ValueError(
            f"at must be ({rows}, {x.shape[1]}) in {x.dtype} on {x.device}, "
            f"got {tuple(at.shape)} in {at.dtype} on {at.device}"
        )
    is_energy = isinstance(kernel, Energy) and kernel.exponent == 1.0
    chosen, _ = backends.choose(OPERATION, backend, Pairs(x.device, is_energy))
    arguments = sample_x.points, sample_y.points, sample_x.weight, sample_y.weight, at.to(sample_x.points.dtype)
    value, slope = chosen.run("kernel_witness", *arguments, rows, kernel)
    return Witness(value.to(result_dtype(x)), slope.to(result_dtype(x)))
