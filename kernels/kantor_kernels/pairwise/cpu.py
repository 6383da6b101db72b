"""Backend `cpu`: compiled by Numba on first use, on threads, in one pass for value and gradient.

Up to 24 features a loop specialised for their number keeps the point, its differences and sums in registers.
Above, squared distances come from `torch.mm` on centred points and a compiled pass turns a tile of products into values
and slopes; close pairs, which the product loses, are computed there from differences. Sums leave float32 after at most
4,096 columns. The energy distance on a line is sorted. Second derivatives and the polynomial kernel are matrix products
in any case and run as in `tiled.py`.

The kernels release the GIL and run on threads of our own, as many as PyTorch uses, so any thread may call; compiled
code is cached by Numba beside this file or, where that is not writable, in the user's cache (or NUMBA_CACHE_DIR).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from kantor_kernels.pairwise import line, tiled
from kantor_kernels.pairwise.tiled import NEAR, hvp

__all__ = ["grad", "hvp", "peak_bytes", "potential", "self_value"]

FEATURES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
BLOCK_COLUMNS = 4096
TILE_ROWS, TILE_COLUMNS = 512, 1024
# Less work than this many pairs is not worth waking a thread.
PAIRS_PER_TASK = 50_000
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
    d = x_BND.shape[-1]
    if family == "polynomial":
        return tiled.potential(x_BND, y_BMD, b_BM, family, constants, skip_diagonal, want_grad)
    if line.applies(d, family, constants):
        return line.potential(x_BND, y_BMD, b_BM, skip_diagonal)
    pairs = _OFF_DIAGONAL if skip_diagonal else _EVERY
    value_BN, grad_BND = _compute(x_BND, y_BMD, b_BM, family, constants, pairs, want_grad)
    return value_BN, x_BND.new_empty(0) if grad_BND is None else grad_BND


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
    d = x_BND.shape[-1]
    if family == "polynomial" or line.applies(d, family, constants):
        value_BN, factor = potential(x_BND, x_BND, a_BN, family, constants, True, False)[0], 1.0
    else:
        value_BN, factor = _compute(x_BND, x_BND, a_BN, family, constants, _BELOW, False)[0], 2.0
    return factor * (value_BN if a_BN is None else a_BN * value_BN).sum(-1)


def peak_bytes(batch: int, n: int, m: int, d: int, itemsize: int, device: str) -> int:
    """Estimate of the extra memory of one pass: copies of the points, row sums, and one tile above 24 features."""
    points = batch * (n + m) * d * itemsize
    sums = batch * n * (8 + d * itemsize)
    tile = 0 if d <= FEATURES[-1] else TILE_ROWS * TILE_COLUMNS * itemsize + TILE_ROWS * d * 12
    return 2 * points + sums + tile


def _compute(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    pairs: int,
    want_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    if family == "energy" and constants[0] != 1.0:
        family = _POWER
    compute = _by_registers if x_BND.shape[-1] <= FEATURES[-1] else _by_products
    return compute(x_BND, y_BMD, b_BM, family, constants, pairs, want_grad)


def _by_registers(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    pairs: int,
    want_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    batch, n, d = x_BND.shape
    m = y_BMD.shape[1]
    features = next(f for f in FEATURES if f >= d)
    x = _padded(x_BND, features)
    y = _padded(y_BMD, features).transpose(0, 2, 1).copy()
    b = np.ones((batch, m), x.dtype) if b_BM is None else _array(b_BM)
    value = np.empty((batch, n))
    slope = np.empty((batch, n, features) if want_grad else (1, 1, features), x.dtype)
    kernel = _row_kernel(features, family, len(constants), str(x.dtype), want_grad)
    scale = _scales(family, constants, x.dtype)

    _share(partial(kernel, x, y, b, scale, value, slope, pairs), batch * n, m)
    if not want_grad:
        return torch.from_numpy(value), None
    grad_BND = torch.from_numpy(slope)
    return torch.from_numpy(value), grad_BND if features == d else grad_BND[..., :d].contiguous()


def _by_products(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    pairs: int,
    want_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    batch, n, d = x_BND.shape
    m = y_BMD.shape[1]
    value_BN = x_BND.new_zeros((batch, n), dtype=torch.float64)
    grad_BND = torch.empty_like(x_BND, memory_format=torch.contiguous_format) if want_grad else None
    kernel = _tile_kernel(family, len(constants), str(_array(x_BND[:0]).dtype), want_grad)
    scale = _scales(family, constants, _array(x_BND[:0]).dtype)
    product_RC = x_BND.new_empty((min(n, TILE_ROWS), min(m, TILE_COLUMNS)))
    centre_B1D = tiled.centre(x_BND, y_BMD)
    for s in range(batch):
        x_ND, y_MD = (x_BND[s] - centre_B1D[s]).contiguous(), (y_BMD[s] - centre_B1D[s]).contiguous()
        raw_x, raw_y = _array(x_BND[s]), _array(y_BMD[s])
        x2, y2 = _array(x_ND.square().sum(1)), _array(y_MD.square().sum(1))
        b = np.ones(m, x2.dtype) if b_BM is None else _array(b_BM[s])
        value = value_BN[s].numpy()
        for i0 in range(0, n, TILE_ROWS):
            x_RD = x_ND[i0 : i0 + TILE_ROWS]
            # Slopes of the tile's rows: their sum, what multiplies y, and the close pairs by differences.
            total = np.zeros(len(x_RD))
            near = np.zeros((len(x_RD), d) if want_grad else (1, d))
            pull_RD = torch.zeros_like(x_RD)
            for j0 in range(0, m if pairs != _BELOW else min(m, i0 + len(x_RD)), TILE_COLUMNS):
                y_CD = y_MD[j0 : j0 + TILE_COLUMNS]
                tile_RC = product_RC.view(-1)[: len(x_RD) * len(y_CD)].view(len(x_RD), len(y_CD))
                torch.mm(x_RD, y_CD.mT, out=tile_RC)
                work = partial(
                    kernel, tile_RC.numpy(), raw_x, raw_y, x2, y2, b, scale, value, total, near, NEAR, pairs, i0, j0
                )
                _share(work, len(x_RD), len(y_CD))
                if want_grad:
                    pull_RD.addmm_(tile_RC, y_CD)
            if grad_BND is not None:
                slope_RD = torch.from_numpy(total).unsqueeze(1) * x_RD - pull_RD + torch.from_numpy(near)
                grad_BND[s, i0 : i0 + TILE_ROWS] = slope_RD.to(grad_BND.dtype)
    return value_BN, grad_BND


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _padded(x_BND: Tensor, features: int) -> Any:
    """As a contiguous array with zeros for the missing features, which change no distance."""
    x = _array(x_BND)
    if x.shape[-1] == features:
        return x
    out = np.zeros((*x.shape[:2], features), x.dtype)
    out[..., : x.shape[-1]] = x
    return out


def _scales(family: str, constants: Sequence[float], dtype: Any) -> Any:
    """The constants as the generated code wants them."""
    values = np.asarray(constants, np.float64)
    if family == _POWER:
        values = values / 2
    elif family == "gaussian":
        values = 0.5 / values**2
    elif family in ("laplacian", "inverse_multiquadric"):
        values = 1 / values
    return values.astype(dtype)


# Threads


def _share(work: Callable[[int, int], None], rows: int, columns: int) -> None:
    """Run work(first, last) over all rows, on the caller and on as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), max(1, rows * columns // PAIRS_PER_TASK))
    if threads == 1:
        work(0, rows)
        return
    # Several tasks a thread even out a busy machine.
    step = -(-rows // (4 * threads))
    starts = iter(range(0, rows, step))

    def drain() -> None:
        # next() on a range iterator is atomic under the GIL, which the compiled kernel alone releases.
        for first in starts:
            work(first, min(first + step, rows))

    helpers = [_pool(threads - 1).submit(drain) for _ in range(threads - 1)]
    drain()
    for helper in helpers:
        helper.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kantor-pairwise")


# Threads do not survive a fork; the child makes its own.
os.register_at_fork(after_in_child=_pool.cache_clear)


# Generated code


@cache
def _row_kernel(features: int, family: str, count: int, dtype: str, want_grad: bool) -> Callable[..., None]:
    """kernel(x, y, b, scale, value, slope, pairs, first, last) for rows first to last of the flattened batch."""
    name = f"rows_{features}_{family}_{count}_{dtype}_{'slope' if want_grad else 'value'}"
    every_d = range(features)
    code = _Code()
    code(0, f"def {name}(x, y, b, scale, value, slope, pairs, first, last):")
    code(1, "n, m = x.shape[1], y.shape[2]")
    _declare(code, family, count, dtype)
    code(1, "for row in range(first, last):")
    code(2, "s = row // n", "i = row - s * n", "U = 0.0")
    code(2, *(f"x{d} = x[s, i, {d}]" for d in every_d), *(f"G{d} = 0.0" for d in every_d if want_grad))
    # Columns on either side of the diagonal, or all of them at once.
    code(2, "for part in range(2):")
    code(3, "low = 0 if part == 0 else (min(i + 1, m) if pairs == 1 else m)")
    code(3, "high = m if part == 1 or pairs == 0 else min(i, m)")
    code(3, f"for start in range(low, high, {BLOCK_COLUMNS}):")
    code(4, f"stop = min(high, start + {BLOCK_COLUMNS})", "w_block, u = b[s, start:stop], zero")
    # Slices indexed from 0 spare the check for negative indices, which would turn every load into a gather.
    code(4, *(f"y{d} = y[s, {d}, start:stop]" for d in every_d), *(f"g{d} = zero" for d in every_d if want_grad))
    code(4, "for j in range(w_block.shape[0]):")
    code(5, *(f"a{d} = x{d} - y{d}[j]" for d in every_d))
    code(5, "w, t = w_block[j], " + " + ".join(f"a{d} * a{d}" for d in every_d))
    _profile(code, 5, family, count, dtype)
    code(5, "u += w * k")
    if want_grad:
        code(5, "p *= w", *(f"g{d} += a{d} * p" for d in every_d))
    code(4, "U += u", *(f"G{d} += g{d}" for d in every_d if want_grad))
    code(2, "value[s, i] = U", *(f"slope[s, i, {d}] = G{d}" for d in every_d if want_grad))
    return code.compiled(name)


@cache
def _tile_kernel(family: str, count: int, dtype: str, want_grad: bool) -> Callable[..., None]:
    """kernel(tile, x, y, x2, y2, b, scale, value, total, near, tau, pairs, i0, j0, first, last): from products to sums.

    Rows first to last of the tile of x . y turn into weighted slopes; value and total gain the row sums, near the
    slopes of close pairs, whose place in the tile becomes zero.
    """
    name = f"tile_{family}_{count}_{dtype}_{'slope' if want_grad else 'value'}"
    code = _Code()
    code(0, f"def {name}(tile, x, y, x2, y2, b, scale, value, total, near, tau, pairs, i0, j0, first, last):")
    code(1, "width, features = tile.shape[1], x.shape[1]")
    _declare(code, family, count, dtype)
    code(1, "nan, two, tau = zero / zero, one + one, one * tau")
    code(1, "for r in range(first, last):")
    code(2, "i = i0 + r", "row, s2, u, g, close = tile[r], x2[i], zero, zero, 0")
    # Infinity makes the excluded pair a close one, which the second loop leaves out.
    code(2, "if pairs == 1 and 0 <= i - j0 < width:", "    row[i - j0] = one / zero")
    # Below the diagonal, a row ends where the diagonal crosses it.
    code(2, "stop = min(width, max(i - j0, 0)) if pairs == 2 else width")
    code(2, "y2_block, w_block = y2[j0 : j0 + stop], b[j0 : j0 + stop]")
    code(2, "for c in range(w_block.shape[0]):")
    code(3, "size = s2 + y2_block[c]", "t = size - two * row[c]", "far = t > tau * size")
    code(3, "t = t if far else one", "w = w_block[c] if far else zero")
    _profile(code, 3, family, count, dtype)
    code(3, "u += w * k", "close += not far")
    if want_grad:
        code(3, "p *= w", "g += p", "row[c] = p if far else nan")
    else:
        code(3, "row[c] = zero if far else nan")
    code(2, "U, T = np.float64(u), np.float64(g)")
    code(2, "if close > 0:")
    code(3, "for c in range(stop):")
    code(4, "if row[c] != row[c]:")
    code(5, "row[c], j, t = zero, j0 + c, zero")
    code(5, "if pairs == 1 and i == j:", "    continue")
    code(5, "for d in range(features):", "    a = x[i, d] - y[j, d]", "    t += a * a")
    code(5, "w = b[j]")
    _profile(code, 5, family, count, dtype)
    code(5, "U += w * k")
    if want_grad:
        code(5, "p *= w", "for d in range(features):", "    near[r, d] += p * (x[i, d] - y[j, d])")
    code(2, "value[i] += U")
    if want_grad:
        code(2, "total[r] += T")
    return code.compiled(name)


class _Code:
    """Lines of a generated function."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, depth: int, *lines: str) -> None:
        self.lines.extend("    " * depth + line for line in lines)

    def compiled(self, name: str) -> Callable[..., None]:
        # The name of a real file and module lets Numba cache what it compiles, and load it again.
        scope: dict[str, Any] = {"np": np, "__name__": __name__}
        exec(compile("\n".join(self.lines) + "\n", __file__, "exec"), scope)
        compiled: Any = numba.njit(scope[name], cache=True, nogil=True, fastmath=_FASTMATH, error_model="numpy")
        return compiled


def _declare(code: _Code, family: str, count: int, dtype: str) -> None:
    code(1, f"zero, one, half = np.{dtype}(0), np.{dtype}(1), np.{dtype}(0.5)")
    code(1, f"tiny = np.{dtype}({'1e-36' if dtype == 'float32' else '1e-200'})")
    code(1, *(f"c{q} = scale[{q}]" for q in range(count)), f"share = one / np.{dtype}({count})")
    if dtype == "float32":
        taylor = [1.0]
        for power in range(1, 8):
            taylor.append(taylor[-1] * np.log(2.0) / power)
        code(1, f"log2e, floor_z = np.float32({float(1 / np.log(2.0))!r}), np.float32(-126)")
        code(1, *(f"e{q} = np.float32({float(value)!r})" for q, value in enumerate(taylor)))


def _profile(code: _Code, depth: int, family: str, count: int, dtype: str) -> None:
    """k and p = k'(d) / d from the squared distance t; 1/d is harmless at coincidence, where it multiplies zeros."""
    if family in ("energy", "laplacian"):
        # The compiler's reciprocal root is short by a few 1e-8 on average, a bias in every mean: correct the distance.
        code(depth, "q = one / np.sqrt(max(t, tiny))", "h = t * q", "h += half * q * (t - h * h)")
    if family == "energy":
        code(depth, "k = -h", "p = -q")
        return
    if family == _POWER:
        code(depth, "q = max(t, tiny)", "e = np.exp(c0 * np.log(q)) if t > tiny else zero")
        code(depth, "k = -e", "p = -(c0 + c0) * e / q")
        return
    code(depth, "k = zero", "p = zero")
    for index in range(count):
        c = f"c{index}"
        if family == "gaussian":
            _exp(code, depth, dtype, f"-({c} * t)")
            code(depth, "k += e", f"p -= ({c} + {c}) * e")
        elif family == "laplacian":
            _exp(code, depth, dtype, f"-({c} * h)")
            code(depth, "k += e", f"p -= {c} * q * e")
        elif family == "inverse_multiquadric":
            code(depth, f"e = one / np.sqrt(one + {c} * {c} * t)", "k += e", f"p -= {c} * {c} * e * e * e")
        elif family == "rational_quadratic":
            code(depth, f"h = one + t / ({c} + {c})", f"e = np.exp(-{c} * np.log(h))", "k += e", "p -= e / h")
        else:
            raise ValueError(f"unknown kernel family {family!r}")
    if count > 1:
        code(depth, "k *= share", "p *= share")


def _exp(code: _Code, depth: int, dtype: str, argument: str) -> None:
    """e = exp(argument) for argument <= 0; in float32 by a polynomial, since the library call does not vectorise."""
    if dtype == "float64":
        code(depth, f"e = np.exp({argument})")
        return
    code(depth, f"z = max(log2e * ({argument}), floor_z)", "whole = np.floor(z + half)", "f = z - whole")
    code(depth, "e = e7")
    code(depth, *(f"e = e * f + e{q}" for q in reversed(range(7))))
    code(depth, "e = e * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)")
