"""Backend `torch`: the three pairwise sums in tiles of bounded size, plain PyTorch, any device.

Up to 16 features the differences are formed one feature at a time (exact near coincidence). Above, the squared
distances come from one matrix product on centred points, and pairs that are close compared with their distance from
the centre are computed again from differences, since the product loses them. Row sums are kept in float64.

Shapes: B batch, N rows of x, M rows of y, D features, R x C one tile. The three sums, for kernel k:
  potential  U_i = sum_j b_j k(x_i, y_j)
  grad       G_i = sum_j b_j grad_1 k(x_i, y_j)
  hvp        the derivative of (U, G) along x -> x + v, y -> y + w
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kantor_kernels.pairwise import line

DIRECT_FEATURES = 16
# Below this fraction of |x|^2 + |y|^2 the expanded square has lost ten bits.
NEAR = 2.0**-10
TILE_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 24}
MAX_COLUMNS = 4096


def potential(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """(U, G): U (B, N) in float64, G (B, N, D) in the dtype of x, or empty when it is not wanted."""
    if line.applies(x_BND.shape[-1], family, constants):
        return line.potential(x_BND, y_BMD, b_BM, skip_diagonal)
    tiles = Tiles(x_BND, y_BMD, b_BM, family, constants, skip_diagonal)
    value_BN = x_BND.new_zeros(x_BND.shape[:2], dtype=torch.float64)
    grad_BND = torch.zeros_like(tiles.x, dtype=torch.float64) if want_grad else None
    for tile in tiles:
        k, slope, _ = tile.profile(1 if want_grad else 0)
        value_BN[tile.rows] += tile.weighted(k).sum(-1, dtype=torch.float64)
        if grad_BND is not None and slope is not None:
            grad_BND[tile.rows] += tile.pull(tile.weighted(slope))
    return value_BN, x_BND.new_empty(0) if grad_BND is None else grad_BND.to(x_BND.dtype)


def grad(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
) -> Tensor:
    """G (B, N, D) in the dtype of x."""
    if line.applies(x_BND.shape[-1], family, constants):
        return line.potential(x_BND, y_BMD, b_BM, skip_diagonal)[1]
    tiles = Tiles(x_BND, y_BMD, b_BM, family, constants, skip_diagonal)
    grad_BND = torch.zeros_like(tiles.x, dtype=torch.float64)
    for tile in tiles:
        slope = tile.profile(1)[1]
        assert slope is not None
        grad_BND[tile.rows] += tile.pull(tile.weighted(slope))
    return grad_BND.to(x_BND.dtype)


def hvp(
    x_BND: Tensor,
    y_BMD: Tensor,
    b_BM: Tensor | None,
    v_BND: Tensor | None,
    w_BMD: Tensor | None,
    family: str,
    constants: Sequence[float],
    skip_diagonal: bool,
) -> tuple[Tensor, Tensor]:
    """(dU (B, N), dG (B, N, D)) along v and w (None stands for zero), computed in float64, returned as x."""
    dtype = x_BND.dtype
    b_BM = None if b_BM is None else b_BM.double()
    # 1 / d^3 overflows float32 for close pairs; second derivatives are rare enough to afford float64.
    tiles = Tiles(x_BND.double(), y_BMD.double(), b_BM, family, constants, skip_diagonal)
    v_BND = None if v_BND is None else v_BND.double()
    w_BMD = None if w_BMD is None else w_BMD.double()
    turn_BN = torch.zeros_like(tiles.x[..., 0])
    bend_BND = torch.zeros_like(tiles.x)
    for tile in tiles:
        _, slope, curve = tile.profile(2)
        assert slope is not None
        assert curve is not None
        slope, curve = tile.weighted(slope), tile.weighted(curve)
        v_BRD = None if v_BND is None else v_BND[tile.rows]
        w_BCD = None if w_BMD is None else w_BMD[:, tile.columns]
        along = tile.along(v_BRD, w_BCD)
        turn_BN[tile.rows] += (slope * along).sum(-1)
        bend_BND[tile.rows] += tile.pull(curve * along)
        # The rest is slope times (v_i - w_j) for radial kernels, slope times w_j / D for the polynomial.
        if tile.radial and v_BRD is not None:
            bend_BND[tile.rows] += slope.sum(-1, keepdim=True) * v_BRD
        if w_BCD is not None:
            bend_BND[tile.rows] += torch.matmul(slope, w_BCD) * (-1.0 if tile.radial else 1.0 / w_BCD.shape[-1])
    return turn_BN.to(dtype), bend_BND.to(dtype)


def self_value(x_BND: Tensor, a_BN: Tensor | None, family: str, constants: Sequence[float]) -> Tensor:
    """sum_{i != j} a_i a_j k(x_i, x_j) as (B,) float64."""
    value_BN = potential(x_BND, x_BND, a_BN, family, constants, True, False)[0]
    return (value_BN if a_BN is None else a_BN * value_BN).sum(-1)


def peak_bytes(batch: int, n: int, m: int, d: int, itemsize: int, device: str) -> int:
    """Estimate of the extra memory of one pass: row sums, centred copies and the buffers of one tile."""
    tile = min(batch * n * m, TILE_ELEMENTS.get(device, TILE_ELEMENTS["cpu"]))
    return batch * (n + m) * d * (itemsize + 8) + batch * n * 8 + 6 * tile * itemsize


class Tiles:
    """The tiles of one pass; iterating yields them row block by row block."""

    def __init__(
        self,
        x_BND: Tensor,
        y_BMD: Tensor,
        b_BM: Tensor | None,
        family: str,
        constants: Sequence[float],
        skip_diagonal: bool,
    ) -> None:
        self.family, self.constants, self.skip_diagonal = family, tuple(constants), skip_diagonal
        self.radial = family != "polynomial"
        self.expanded = self.radial and x_BND.shape[-1] > DIRECT_FEATURES
        # Differences are taken of the points as they came: centring rounds them.
        self.raw_x, self.raw_y = x_BND, y_BMD
        if self.expanded:
            # The statistics are translation invariant; centred points keep the matrix product accurate.
            centre_B1D = centre(x_BND, y_BMD)
            x_BND, y_BMD = x_BND - centre_B1D, y_BMD - centre_B1D
        self.x, self.y, self.b = x_BND, y_BMD, b_BM
        if self.expanded:
            self.x2, self.y2 = x_BND.square().sum(-1), y_BMD.square().sum(-1)

    def __iter__(self) -> Iterator[Tile]:
        batch, n, _ = self.x.shape
        m = self.y.shape[1]
        limit = TILE_ELEMENTS.get(self.x.device.type, TILE_ELEMENTS["cpu"])
        columns = min(m, MAX_COLUMNS, limit)
        rows = max(1, min(n, limit // max(columns, 1)))
        batches = max(1, min(batch, limit // max(rows * columns, 1)))
        for b0 in range(0, batch, batches):
            for i0 in range(0, n, rows):
                for j0 in range(0, m, columns):
                    yield Tile(self, slice(b0, b0 + batches), slice(i0, i0 + rows), slice(j0, j0 + columns))


class Tile:
    """Rows `row` of x against rows `columns` of y, for the batch elements `batch`."""

    def __init__(self, tiles: Tiles, batch: slice, row: slice, column: slice) -> None:
        self.tiles, self.radial = tiles, tiles.radial
        self.rows, self._columns = (batch, row), (batch, column)
        self.columns = column
        self.batch, self.row = batch, row
        self.x_BRD, self.y_BCD = tiles.x[self.rows], tiles.y[self._columns]
        self.raw_x_BRD, self.raw_y_BCD = tiles.raw_x[self.rows], tiles.raw_y[self._columns]
        self.near: tuple[Tensor, ...] | None = None
        self.direct = not tiles.expanded

    def profile(self, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(k, slope, curve) as (B, R, C): for radial kernels k, k'(d) / d and its derivative by d divided by d;
        for the polynomial the derivatives by u = x.y / D + c."""
        if self.radial:
            parts = radial_profile(self._squared_distances(), self.tiles.family, self.tiles.constants, order)
        else:
            degree, offset = self.tiles.constants
            u = torch.matmul(self.x_BRD, self.y_BCD.mT) / self.x_BRD.shape[-1] + offset
            parts = polynomial_profile(u, int(degree), order)
        if self.tiles.skip_diagonal:
            first = max(self.row.start, self.columns.start)
            last = min(self.row.start + self.x_BRD.shape[1], self.columns.start + self.y_BCD.shape[1])
            if first < last:
                index = torch.arange(first, last, device=self.x_BRD.device)
                for part in parts:
                    if part is not None:
                        part[:, index - self.row.start, index - self.columns.start] = 0.0
        return parts

    def weighted(self, part_BRC: Tensor) -> Tensor:
        if self.tiles.b is None:
            return part_BRC
        return part_BRC * self.tiles.b[self._columns].unsqueeze(1)

    def pull(self, weight_BRC: Tensor) -> Tensor:
        """sum_j weight_ij (x_i - y_j), or sum_j weight_ij y_j / D for the polynomial, as (B, R, D) float64."""
        if not self.radial:
            return torch.matmul(weight_BRC, self.y_BCD).double() / self.y_BCD.shape[-1]
        if self.direct:
            return torch.stack(
                [(weight_BRC * self._difference(d)).sum(-1, dtype=torch.float64) for d in range(self.x_BRD.shape[-1])],
                dim=-1,
            )
        out_BRD = torch.zeros_like(self.x_BRD, dtype=torch.float64)
        if self.near is not None:
            b, r, c = self.near
            near = weight_BRC[self.near].unsqueeze(-1) * (self.raw_x_BRD[b, r] - self.raw_y_BCD[b, c])
            out_BRD.index_put_((b, r), near.double(), accumulate=True)
            weight_BRC = weight_BRC.index_put(self.near, weight_BRC.new_zeros(()))
        out_BRD += weight_BRC.sum(-1, keepdim=True, dtype=torch.float64) * self.x_BRD
        out_BRD -= torch.matmul(weight_BRC, self.y_BCD)
        return out_BRD

    def along(self, v_BRD: Tensor | None, w_BCD: Tensor | None) -> Tensor:
        """(x_i - y_j) . (v_i - w_j), or (v_i . y_j + x_i . w_j) / D for the polynomial, as (B, R, C)."""
        x_BRD, y_BCD = self.x_BRD, self.y_BCD
        out_BRC = torch.zeros_like(x_BRD[..., :1] + y_BCD[..., 0].unsqueeze(1))
        if not self.radial:
            if v_BRD is not None:
                out_BRC += torch.matmul(v_BRD, y_BCD.mT)
            if w_BCD is not None:
                out_BRC += torch.matmul(x_BRD, w_BCD.mT)
            return out_BRC / x_BRD.shape[-1]
        if self.direct:
            for d in range(x_BRD.shape[-1]):
                delta = self._difference(d)
                if v_BRD is not None:
                    out_BRC += delta * v_BRD[..., d, None]
                if w_BCD is not None:
                    out_BRC -= delta * w_BCD[..., d].unsqueeze(1)
            return out_BRC
        if v_BRD is not None:
            out_BRC += (x_BRD * v_BRD).sum(-1, keepdim=True) - torch.matmul(v_BRD, y_BCD.mT)
        if w_BCD is not None:
            out_BRC += (y_BCD * w_BCD).sum(-1).unsqueeze(1) - torch.matmul(x_BRD, w_BCD.mT)
        if self.near is not None:
            b, r, c = self.near
            tangent = torch.zeros_like(x_BRD[b, r])
            tangent = tangent if v_BRD is None else tangent + v_BRD[b, r]
            tangent = tangent if w_BCD is None else tangent - w_BCD[b, c]
            out_BRC[self.near] = ((self.raw_x_BRD[b, r] - self.raw_y_BCD[b, c]) * tangent).sum(-1)
        return out_BRC

    def _difference(self, d: int) -> Tensor:
        return self.raw_x_BRD[..., d, None] - self.raw_y_BCD[..., d].unsqueeze(1)

    def _squared_distances(self) -> Tensor:
        if not self.direct:
            x2_BR, y2_BC = self.tiles.x2[self.rows], self.tiles.y2[self._columns]
            scale_BRC = x2_BR.unsqueeze(-1) + y2_BC.unsqueeze(1)
            d2_BRC = torch.baddbmm(scale_BRC, self.x_BRD, self.y_BCD.mT, alpha=-2.0)
            near = (d2_BRC < NEAR * scale_BRC).nonzero(as_tuple=True)
            count = near[0].numel()
            if count == 0:
                return d2_BRC
            if count * self.x_BRD.shape[-1] <= 4 * d2_BRC.numel():
                b, r, c = self.near = near
                d2_BRC[near] = (self.raw_x_BRD[b, r] - self.raw_y_BCD[b, c]).square().sum(-1)
                return d2_BRC
            # So many close pairs that gathering them would outgrow the tile: form every difference instead.
            self.direct = True
        d2_BRC = self._difference(0).square_()
        for d in range(1, self.x_BRD.shape[-1]):
            delta = self._difference(d)
            d2_BRC.addcmul_(delta, delta)
        return d2_BRC


def radial_profile(
    d2: Tensor, family: str, constants: Sequence[float], order: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(k, p, q) as functions of the squared distance t: p = 2 dk/dt, q = 2 dp/dt; higher than `order` are None.

    grad_x k = p delta and Hessian = p I + q delta delta^T with delta = x - y. Where k is not smooth (energy,
    Laplacian), 1/d := 0 at coincidence makes p and q zero there.
    """
    if family == "energy":
        return _energy(d2, constants[0], order)
    terms = [_PROFILES[family](d2, constant, order) for constant in constants]
    if len(terms) == 1:
        return terms[0]
    k, p, q = (None if part[0] is None else torch.stack(part).mean(0) for part in zip(*terms, strict=True))
    assert k is not None
    return k, p, q


def polynomial_profile(u: Tensor, degree: int, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """u^p and its first and second derivative by u."""
    slope = degree * u ** (degree - 1) if order > 0 else None
    curve = degree * (degree - 1) * u ** max(degree - 2, 0) if order > 1 else None
    return u**degree, slope, curve


def _together(d2: Tensor) -> Tensor:
    """Whether points coincide, as far as their dtype can tell; a NaN does not."""
    return d2 <= (1e-36 if d2.dtype == torch.float32 else 1e-200)


def _inverse_distance(d2: Tensor) -> Tensor:
    return torch.where(_together(d2), 0.0, d2.rsqrt())


def _energy(d2: Tensor, exponent: float, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    r = _inverse_distance(d2)
    if exponent == 1.0:
        k, p = -d2 * r, -r if order > 0 else None
        return k, p, r * r * r if order > 1 else None
    power = torch.where(_together(d2), 0.0, d2 ** (exponent / 2))
    p = -exponent * power * r * r if order > 0 else None
    q = exponent * (2 - exponent) * power * r**4 if order > 1 else None
    return -power, p, q


def _gaussian(d2: Tensor, s: float, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    k = torch.exp(d2 * (-0.5 / s**2))
    return k, -k / s**2 if order > 0 else None, k / s**4 if order > 1 else None


def _laplacian(d2: Tensor, s: float, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    r = _inverse_distance(d2)
    k = torch.exp(d2 * r * (-1 / s))
    p = -k * r / s if order > 0 else None
    q = k * r * r * (1 / s + r) / s if order > 1 else None
    return k, p, q


def _rational_quadratic(d2: Tensor, alpha: float, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    u = 1 + d2 / (2 * alpha)
    k = u**-alpha
    p = -k / u if order > 0 else None
    q = (alpha + 1) / alpha * k / (u * u) if order > 1 else None
    return k, p, q


def _inverse_multiquadric(d2: Tensor, s: float, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    k = (1 + d2 / s**2).rsqrt()
    k3 = k * k * k
    return k, -k3 / s**2 if order > 0 else None, 3 * k3 * k * k / s**4 if order > 1 else None


_PROFILES = {
    "gaussian": _gaussian,
    "laplacian": _laplacian,
    "rational_quadratic": _rational_quadratic,
    "inverse_multiquadric": _inverse_multiquadric,
}


def centre(x_BND: Tensor, y_BMD: Tensor) -> Tensor:
    """The middle between the two samples' means, (B, 1, D)."""
    return (
        (x_BND.mean(1, keepdim=True, dtype=torch.float64) + y_BMD.mean(1, keepdim=True, dtype=torch.float64)) / 2
    ).to(x_BND.dtype)
