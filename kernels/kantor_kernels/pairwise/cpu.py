"""Backend `cpu`: compiled by Numba on first use, on threads, in one pass for value and gradient.

Up to 24 features, or 12 without AVX-512, a loop specialised for their number keeps the point, its differences and sums
in registers; few pairs take it up to 24 anyway. Above, squared distances come from `torch.mm` on centred points and a
compiled pass turns a tile of products into values and slopes; close pairs, which the product loses, are computed there
from differences. Sums leave float32 after at most 4,096 columns. The energy distance on a line is sorted. Second
derivatives and the polynomial kernel are matrix products in any case and run as in `tiled.py`.

The kernels release the GIL and run on the threads of `threads.py`, so any thread may call; compiled code is kept on
disk (`compiling.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kantor_kernels.compiling import VECTOR, jit
from kantor_kernels.pairwise import cpu_line, line, tiled
from kantor_kernels.pairwise.tiled import NEAR, hvp
from kantor_kernels.threads import Work, run_all

__all__ = ["grad", "hvp", "mmd", "peak_bytes", "potential", "self_value"]

FEATURES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
# What registers hold: of more features, many pairs take two to five times as long as by products.
IN_REGISTERS, FEW_PAIRS = 24 if VECTOR == 64 else 12, 2**18
BLOCK_COLUMNS = 4096
# A tile of products, its columns' points and the sums of its rows stay in the second cache.
TILE_ROWS, TILE_COLUMNS = 128, 1024
# Not "nnan" or "ninf": a NaN among the points must come out as a NaN.
_FASTMATH = {"reassoc", "contract", "arcp", "afn", "nsz"}
# The energy kernel with an exponent other than 1, whose power is no root.
_POWER = "energy_power"
_EVERY, _OFF_DIAGONAL, _BELOW = 0, 1, 2


def potential(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """(U, G) as `tiled.potential`."""
    if family == "polynomial":
        return tiled.potential(x_BND, y_BMD, b_BM, family, constants, skip_diagonal, want_grad)
    if line.applies(x_BND.shape[-1], family, constants):
        return line.potential(x_BND, y_BMD, b_BM, skip_diagonal)
    x, y = _layouts(x_BND, y_BMD, None, b_BM)
    sums = _sums(x, y, family, constants, _OFF_DIAGONAL if skip_diagonal else _EVERY, want_grad)
    run_all(sums.work)
    return sums.value, sums.slope


def grad(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
) -> Tensor:
    """G as `tiled.grad`."""
    return potential(x_BND, y_BMD, b_BM, family, constants, skip_diagonal, True)[1]


def self_value(x_BND: Tensor, a_BN: Tensor | None, family: str, constants: Sequence[float]) -> Tensor:
    """sum_{i != j} a_i a_j k(x_i, x_j) as (B,) float64, from the pairs j < i alone."""
    if family == "polynomial" or line.applies(x_BND.shape[-1], family, constants):
        value_BN = potential(x_BND, x_BND, a_BN, family, constants, True, False)[0]
        return (value_BN if a_BN is None else a_BN * value_BN).sum(-1)
    x, _ = _layouts(x_BND, x_BND, a_BN, a_BN)
    sums = _sums(x, x, family, constants, _BELOW, False)
    run_all(sums.work)
    return sums.total()


def mmd(
    x_BND: Tensor,
    y_BMD: Tensor,
    a_BN: Tensor | None,
    b_BM: Tensor | None,
    factor_B3: Tensor,
    family: str,
    constants: Sequence[float],
    want_yy: bool,
    want_x: bool,
    want_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(value, by_x, by_y) as `autograd.mmd`: all sums of a squared MMD at once, so that threads are woken once."""
    if line.applies(x_BND.shape[-1], family, constants):
        return cpu_line.mmd(x_BND, y_BMD, a_BN, b_BM, factor_B3, want_yy, want_x, want_y)
    x, y = _layouts(x_BND, y_BMD, a_BN, b_BM)
    sums = partial(_sums, family=family, constants=constants)
    xy = sums(x, y, pairs=_EVERY, want_grad=want_x) if want_x or not want_y else None
    yx = sums(y, x, pairs=_EVERY, want_grad=True) if want_y else None
    xx = sums(x, x, pairs=_OFF_DIAGONAL if want_x else _BELOW, want_grad=want_x)
    yy = sums(y, y, pairs=_OFF_DIAGONAL if want_y else _BELOW, want_grad=want_y) if want_yy else None
    run_all(*(part.work for part in (xy, yx, xx, yy) if part is not None))

    across = xy or yx
    assert across is not None
    value_B = factor_B3[:, 0] * xx.total() - 2 * factor_B3[:, 1] * across.total()
    if yy is not None:
        value_B = value_B + factor_B3[:, 2] * yy.total()
    by_x, by_y = x_BND.new_empty(0), x_BND.new_empty(0)
    twice_3B11 = (2 * factor_B3.mT).to(x_BND.dtype)[..., None, None]
    if want_x:
        assert xy is not None
        by_x = x.weighted((twice_3B11[0] * xx.slope).addcmul_(twice_3B11[1], xy.slope, value=-1))
    if want_y:
        assert yx is not None
        by_y = -twice_3B11[1] * yx.slope
        by_y = y.weighted(by_y if yy is None else by_y + twice_3B11[2] * yy.slope)
    return value_B, by_x, by_y


def peak_bytes(batch: int, n: int, m: int, d: int, itemsize: int, device: str) -> int:
    """Estimate of the extra memory of one pass: copies of the points, row sums, or a tile a thread."""
    points = batch * (n + m) * d * itemsize
    sums = batch * n * (8 + d * itemsize)
    tile = 0 if _by_differences(d, n * m) else TILE_ROWS * (TILE_COLUMNS * itemsize + d * 12) * torch.get_num_threads()
    return 2 * points + sums + tile


@dataclass(frozen=True)
class _Layouts:
    """Points and weights in the layouts that the kernels want, each made when it is first asked for."""

    points: Tensor  # (B, N, D)
    weight: Tensor | None  # (B, N)
    centre: Tensor | None  # (B, 1, D), of both samples, for matrix products; None for differences

    @cached_property
    def rows(self) -> Any:
        return self.points.numpy()

    @cached_property
    def columns(self) -> Any:
        """(B, features, N), with zeros for features that the loop has beyond D, which change no distance."""
        batch, n, d = self.points.shape
        columns = np.zeros((batch, _loop_features(d), n), self.rows.dtype)
        columns[:, :d] = self.rows.transpose(0, 2, 1)
        return columns

    @cached_property
    def mass(self) -> Any:
        """(B, N): the weights, 1 where there are none."""
        return np.ones(self.points.shape[:2], self.rows.dtype) if self.weight is None else _array(self.weight)

    @cached_property
    def centred(self) -> Tensor:
        assert self.centre is not None
        return self.points - self.centre

    @cached_property
    def squares(self) -> Any:
        return self.centred.square().sum(-1).numpy()

    def weighted(self, slope_BND: Tensor) -> Tensor:
        return slope_BND if self.weight is None else self.weight.unsqueeze(-1) * slope_BND


def _layouts(x_BND: Tensor, y_BMD: Tensor, a_BN: Tensor | None, b_BM: Tensor | None) -> tuple[_Layouts, _Layouts]:
    direct = _by_differences(x_BND.shape[-1], x_BND.shape[1] * y_BMD.shape[1])
    centre_B1D = None if direct else tiled.centre(x_BND, y_BMD)
    # Helping threads know nothing of the caller's `no_grad`.
    x, y = (
        _Layouts(points.detach().contiguous(), None if weight is None else weight.detach(), centre_B1D)
        for points, weight in ((x_BND, a_BN), (y_BMD, b_BM))
    )
    return x, y


@dataclass(frozen=True)
class _Sums:
    """The sums over y for the rows of x, there once `work` has been done.

    Attributes:
        value: U, (B, N) float64.
        slope: G, (B, N, D), or empty.
        weight: (B, N) of the rows.
        copies: how often a pair that was summed counts.
        work: what computes them.
    """

    value: Tensor
    slope: Tensor
    weight: Tensor | None
    copies: float
    work: Work

    def total(self) -> Tensor:
        """sum_i a_i U_i, (B,) float64."""
        return self.copies * (self.value if self.weight is None else self.weight * self.value).sum(-1)


def _sums(x: _Layouts, y: _Layouts, family: str, constants: Sequence[float], pairs: int, want_grad: bool) -> _Sums:
    batch, n, d = x.points.shape
    m = y.points.shape[1]
    if family == "energy" and constants[0] != 1.0:
        family = _POWER
    dtype = "float32" if x.points.dtype == torch.float32 else "float64"
    scale = _scales(family, tuple(constants))
    value_BN = torch.zeros(batch, n, dtype=torch.float64)
    slope_BND = torch.empty_like(x.points) if want_grad else x.points.new_empty(0, 0, 0)
    if x is y and pairs == _OFF_DIAGONAL and family in ("energy", _POWER) and x.centre is None:
        # A point adds nothing to its own sums, and a loop without a gap is faster.
        pairs = _EVERY
    # On average half of the pairs are below the diagonal.
    columns = m / 2 if pairs == _BELOW else m
    if x.centre is None:
        weighted = y.weight is not None
        kernel = _row_kernel(_loop_features(d), family, len(constants), dtype, weighted, want_grad)
        mass = y.mass if weighted else np.empty((0, 0), dtype)
        run = partial(kernel, x.rows, y.columns, mass, scale, value_BN.numpy(), slope_BND.numpy(), pairs)
        work = Work(run, batch * n, columns)
    else:
        kernel = _tile_kernel(family, len(constants), dtype, want_grad)
        run = partial(_tiles, kernel, x, y, scale, value_BN, slope_BND, pairs)
        work = Work(run, batch * -(-n // TILE_ROWS), TILE_ROWS * columns)
    return _Sums(value_BN, slope_BND, x.weight, 2.0 if pairs == _BELOW else 1.0, work)


def _tiles(
    kernel: Callable[..., None],
    x: _Layouts,
    y: _Layouts,
    scale: Any,
    value_BN: Tensor,
    slope_BND: Tensor,
    pairs: int,
    first: int,
    last: int,
) -> None:
    """The sums for rows of tiles, counted through the batch; always the same tiles, whatever the threads."""
    n, m, d = x.points.shape[1], y.points.shape[1], x.points.shape[2]
    want_grad = slope_BND.numel() > 0
    tiles = -(-n // TILE_ROWS)
    product = x.points.new_empty(min(n, TILE_ROWS) * min(m, TILE_COLUMNS))
    for index in range(first, last):
        s, i0 = index // tiles, index % tiles * TILE_ROWS
        row = s, slice(i0, i0 + TILE_ROWS)
        x_RD, value = x.centred[row], value_BN[row].numpy()
        rows = len(x_RD)
        # Slopes of the rows: their sum, what multiplies y, and those of the close pairs by differences.
        total, near = np.zeros(rows), np.zeros((rows, d if want_grad else 0))
        pull_RD = torch.zeros_like(x_RD)
        for j0 in range(0, m if pairs != _BELOW else min(m, i0 + rows), TILE_COLUMNS):
            column = s, slice(j0, j0 + TILE_COLUMNS)
            y_CD = y.centred[column]
            tile_RC = product[: rows * len(y_CD)].view(rows, len(y_CD))
            torch.mm(x_RD, y_CD.mT, out=tile_RC)
            kernel(
                tile_RC.numpy(), x.rows[row], y.rows[column], x.squares[row], y.squares[column], y.mass[column], scale,
                value, total, near, NEAR, pairs, i0 - j0,
            )  # fmt: skip
            if want_grad:
                pull_RD.addmm_(tile_RC, y_CD)
        if want_grad:
            slope_BND[row] = torch.from_numpy(total).unsqueeze(1) * x_RD - pull_RD + torch.from_numpy(near)


def _array(tensor: Tensor) -> Any:
    return tensor.contiguous().numpy()


def _by_differences(d: int, pairs: int) -> bool:
    return d <= IN_REGISTERS or (d <= FEATURES[-1] and pairs <= FEW_PAIRS)


@cache
def _loop_features(d: int) -> int:
    return next(features for features in FEATURES if features >= d)


@cache
def _scales(family: str, constants: tuple[float, ...]) -> Any:
    """The constants as the generated code wants them."""
    values = np.asarray(constants, np.float64)
    if family == _POWER:
        values = values / 2
    elif family == "gaussian":
        values = 0.5 / values**2
    elif family in ("laplacian", "inverse_multiquadric"):
        values = 1 / values
    return values


# 2^f for |f| <= 1/2 to 2e-9, by powers of f.
_CHEBYSHEV = np.polynomial.Chebyshev.interpolate(np.exp2, 6, (-0.5, 0.5))
_E = tuple(_CHEBYSHEV.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32))
# Added to a small number, this leaves the nearest whole one in its low bits.
_LEAST, _ROUND = np.float32(-126), np.float32(1.5 * 2**23)


# Without "reassoc", which would take the rounding out.
@jit(fastmath={"contract"})
def _exp2(z: Any) -> Any:
    """2^z for float32 z <= 0, in steps that vectorise and wait little for each other."""
    z = max(z, _LEAST)
    shifted = z + _ROUND
    f = z - (shifted - _ROUND)
    f2 = f * f
    e = (_E[0] + _E[1] * f) + f2 * ((_E[2] + _E[3] * f) + f2 * ((_E[4] + _E[5] * f) + f2 * _E[6]))
    # Numba wants to see the type of what is viewed as another.
    power = np.float32(shifted).view(np.int32) << np.int32(23)
    return np.int32(np.float32(e).view(np.int32) + power).view(np.float32)


# Generated code


@cache
def _row_kernel(
    features: int, family: str, count: int, dtype: str, weighted: bool, want_grad: bool
) -> Callable[..., None]:
    """kernel(x, y, b, scale, value, slope, pairs, first, last) for rows first to last of the flattened batch."""
    name = f"rows_{features}_{family}_{count}_{dtype}_{'weighted_' * weighted}{'slope' if want_grad else 'value'}"
    every_d = range(features)
    source = _Source()
    source(0, f"def {name}(x, y, b, scale, value, slope, pairs, first, last):")
    source(1, "n, m, features = x.shape[1], y.shape[2], x.shape[2]")
    _declare(source, count, dtype)
    source(1, "for row in range(first, last):")
    source(2, "s = row // n", "i = row - s * n", "U = 0.0")
    source(2, *(f"x{d} = x[s, i, {d}] if features > {d} else zero" for d in every_d))
    source(2, *(f"G{d} = 0.0" for d in every_d if want_grad))
    # Columns on either side of the diagonal, or all of them at once.
    source(2, "for part in range(2):")
    source(3, "low = 0 if part == 0 else (min(i + 1, m) if pairs == 1 else m)")
    source(3, "high = m if part == 1 or pairs == 0 else min(i, m)")
    source(3, f"for start in range(low, high, {BLOCK_COLUMNS}):")
    source(4, f"stop = min(high, start + {BLOCK_COLUMNS})", "u, v = zero, zero")
    # Slices indexed from 0 spare the check for negative indices, which would turn every load into a gather.
    source(4, *(f"y{d} = y[s, {d}, start:stop]" for d in every_d), *(f"g{d} = zero" for d in every_d if want_grad))
    if weighted:
        source(4, "w = b[s, start:stop]")
    source(4, "for j in range(y0.shape[0]):")
    source(5, *(f"a{d} = x{d} - y{d}[j]" for d in every_d), "t = " + " + ".join(f"a{d} * a{d}" for d in every_d))
    _profile(source, 5, family, count)
    if weighted:
        source(5, "k *= w[j]", "p *= w[j]")
    source(5, "u += k", "v += p * rest", *(f"g{d} += a{d} * p" for d in every_d if want_grad))
    source(4, "U += np.float64(u) + 0.5 * np.float64(v)", *(f"G{d} += g{d}" for d in every_d if want_grad))
    source(2, "value[s, i] = U")
    if want_grad:
        for d in every_d:
            source(2, f"if features > {d}:", f"    slope[s, i, {d}] = G{d}")
    return source.function(name)


@cache
def _tile_kernel(family: str, count: int, dtype: str, want_grad: bool) -> Callable[..., None]:
    """kernel(tile, x, y, x2, y2, b, scale, value, total, near, tau, pairs, shift): from products to sums.

    The products x . y of a tile turn into weighted slopes; value and total gain the sums of its rows, near the slopes
    of close pairs, whose place in the tile becomes zero. A point has its partner on the diagonal `shift` columns on.
    """
    name = f"tile_{family}_{count}_{dtype}_{'slope' if want_grad else 'value'}"
    source = _Source()
    source(0, f"def {name}(tile, x, y, x2, y2, b, scale, value, total, near, tau, pairs, shift):")
    source(1, "height, width, features = tile.shape[0], tile.shape[1], x.shape[1]")
    _declare(source, count, dtype)
    # All in one type, also the count of close pairs: a wider one would halve the vectors.
    source(1, f"nan, two, tau = zero / zero, one + one, np.{dtype}(tau)")
    source(1, "for r in range(height):")
    source(2, "diagonal = r + shift", "row, s2, u, v, g, close = tile[r], x2[r], zero, zero, zero, zero")
    # Infinity makes the excluded pair a close one, which the second loop leaves out.
    source(2, "if pairs == 1 and 0 <= diagonal < width:", "    row[diagonal] = one / zero")
    # Below the diagonal, a row ends where the diagonal crosses it.
    source(2, "stop = min(width, max(diagonal, 0)) if pairs == 2 else width")
    source(2, "y2_block, w_block = y2[:stop], b[:stop]")
    source(2, "for c in range(w_block.shape[0]):")
    source(3, "size = s2 + y2_block[c]", "t = size - two * row[c]", "far = t > tau * size")
    source(3, "t = t if far else one", "w = w_block[c] if far else zero")
    _profile(source, 3, family, count)
    source(3, "p *= w", "u += w * k", "v += p * rest", f"close += np.{dtype}(not far)")
    if want_grad:
        source(3, "g += p", "row[c] = p if far else nan")
    else:
        source(3, "row[c] = zero if far else nan")
    source(2, "U, T = np.float64(u) + 0.5 * np.float64(v), np.float64(g)")
    source(2, "if close > 0:")
    source(3, "for c in range(stop):")
    source(4, "if row[c] != row[c]:")
    source(5, "row[c], t = zero, zero")
    source(5, "if pairs == 1 and c == diagonal:", "    continue")
    source(5, "for d in range(features):", "    a = x[r, d] - y[c, d]", "    t += a * a")
    _profile(source, 5, family, count)
    source(5, "p *= b[c]", "U += np.float64(b[c] * k) + 0.5 * np.float64(p * rest)")
    if want_grad:
        source(5, "for d in range(features):", "    near[r, d] += p * (x[r, d] - y[c, d])")
    source(2, "value[r] += U")
    if want_grad:
        source(2, "total[r] += T")
    return source.function(name)


class _Source:
    """Lines of a generated function."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, depth: int, *lines: str) -> None:
        self.lines.extend("    " * depth + line for line in lines)

    def function(self, name: str) -> Callable[..., None]:
        # The name of a real file and module lets Numba cache what it compiles, and load it again.
        scope: dict[str, Any] = {"np": np, "exp2": _exp2, "__name__": __name__}
        exec(compile("\n".join(self.lines) + "\n", __file__, "exec"), scope)
        return jit(fastmath=_FASTMATH, error_model="numpy")(scope[name])


def _declare(source: _Source, count: int, dtype: str) -> None:
    source(1, f"zero, one = np.{dtype}(0), np.{dtype}(1)")
    source(1, f"tiny = np.{dtype}({'1e-36' if dtype == 'float32' else '1e-200'})")
    source(1, *(f"c{q} = np.{dtype}(scale[{q}])" for q in range(count)), f"share = one / np.{dtype}({count})")
    # Exponents in powers of two, where that is faster; a constant is rounded once either way.
    factor = "np.log2(np.e)" if dtype == "float32" else "one"
    source(1, "exp = exp2" if dtype == "float32" else "exp = np.exp")
    source(1, *(f"z{q} = np.{dtype}(-scale[{q}] * {factor})" for q in range(count)))


def _profile(source: _Source, depth: int, family: str, count: int) -> None:
    """k and p = k'(d) / d from the squared distance t; 1/d is harmless at coincidence, where it multiplies zeros.

    The compiler's reciprocal root q is short by a few 1e-8 on average, which would bias every mean. What the distance
    h = t q misses, (t - h h) q / 2, changes k by p (t - h h) / 2: `rest` is the bracket, 0 without a root. It has a sum
    of its own, since next to k float32 would lose it.
    """
    source(depth, "rest = zero")
    if family in ("energy", "laplacian"):
        source(depth, "q = one / np.sqrt(max(t, tiny))", "h = t * q", "rest = t - h * h")
    if family == "energy":
        source(depth, "k = -h", "p = -q")
        return
    if family == _POWER:
        source(depth, "q = max(t, tiny)", "e = zero if t <= tiny else np.exp(c0 * np.log(q))")
        source(depth, "k = -e", "p = -(c0 + c0) * e / q")
        return
    source(depth, "k = zero", "p = zero")
    for index in range(count):
        c, z = f"c{index}", f"z{index}"
        if family == "gaussian":
            source(depth, f"e = exp({z} * t)", "k += e", f"p -= ({c} + {c}) * e")
        elif family == "laplacian":
            source(depth, f"e = exp({z} * h)", "k += e", f"p -= {c} * q * e")
        elif family == "inverse_multiquadric":
            source(depth, f"e = one / np.sqrt(one + {c} * {c} * t)", "k += e", f"p -= {c} * {c} * e * e * e")
        elif family == "rational_quadratic":
            source(depth, f"h = one + t / ({c} + {c})", f"e = np.exp(-{c} * np.log(h))", "k += e", "p -= e / h")
        else:
            raise ValueError(f"unknown kernel family {family!r}")
    if count > 1:
        source(depth, "k *= share", "p *= share")
