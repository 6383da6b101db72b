"""Coordinates of calorimeter showers: total over incident energy, shares of layers, shares of voxels.

The coordinates of CaloFlow (Krause and Shih, arXiv:2106.05285, section 3), here for any number of layers:

    u_0 = E_tot / (r E_inc),    u_k = E_k / (E_k + E_(k+1) + ... + E_L),    s_v = e_v / E_layer(v),

each as logit(m + (1 - 2 m) u), standardised by the training rows. r is a little more than the largest response. What is
empty, a voxel or a layer below the threshold, is spread evenly between 0 and the threshold, and is empty again where
it comes out below it. Shapes: N rows, L layers, V voxels of all layers, E = V + L coordinates.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms.base import NOTHING, CoordinateMap, Given
from kantor.shapes import Shapes, elements

# Part of the threshold by which rounding may move what lies at it: empty voxels stay twice as far below.
_SLACK = 1e-3
_AT_ONCE = 1 << 22  # numbers that are worked on together
_ROOM = 1.05  # between the largest response in training and the largest that is generated
_MOST_LOST = 0.05  # of the energy, below a threshold that is in the right unit


class Shower(CoordinateMap):
    """The arrays of a shower's layers, by name, to (N, E) and back.

    The inverse of the transform is exact, up to rounding, for showers whose voxels are 0 or at least the threshold.

    Args:
        settings: names of the layers, of the incident energy, and the threshold [unit of the layers].
        shapes: of the layers. One feature alone has its layers along its first axis.
    """

    mean: Tensor
    deviation: Tensor
    response: Tensor
    constant: Tensor
    layer_of_voxel: Tensor

    def __init__(self, settings: config.Shower, shapes: Shapes) -> None:
        super().__init__()
        self.settings, self.columns = settings, tuple(settings.mapped)
        self.shapes = {name: shapes[name] for name in self.columns}
        if len(self.columns) == 1:
            layers, *rest = self.shapes[self.columns[0]]
            self.sizes = [math.prod(rest)] * layers
        else:
            self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        voxels = sum(self.sizes)
        self.size = voxels + len(self.sizes)
        self.register_buffer("mean", torch.zeros(self.size))
        self.register_buffer("deviation", torch.ones(self.size))
        self.register_buffer("response", torch.ones(()))
        self.register_buffer("constant", torch.zeros(self.size, dtype=torch.bool))
        layer_of_voxel = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        self.register_buffer("layer_of_voxel", layer_of_voxel, persistent=False)

    # ------------------------------------------------------------------------------------------------------- fitting

    def fit(self, layers: Mapping[str, Tensor], weight_N: Tensor, given: Given) -> None:
        """Set the buffers from training rows in a few passes over blocks of rows; weights are at least zero.

        Raises:
            InputError: an energy is negative, an incident energy is not positive, the response is far from what is
                expected, or the threshold cuts much of the energy.
        """
        incident_N = self._incident(given)
        bad = int((incident_N <= 0).sum())
        if bad:
            raise InputError(
                f"{bad} training rows have an incident energy of 0 or less",
                where=f"column '{self.settings.energy}'",
                cure="cut these rows in the dataset",
            )
        total_N, hit_V = self._survey(layers)
        ratio_N = total_N / incident_N
        self._check_response(ratio_N)
        largest = float(ratio_N.max())
        if self.settings.largest is not None and largest >= self.settings.largest:
            raise InputError(
                f"the largest energy of a shower over the incident energy is {largest:.4g} in the training rows",
                where="coordinates.largest",
                cure=f"raise it above {largest:.4g}, or leave it out",
            )
        self.response.fill_(self.settings.largest or _ROOM * largest)
        voxels_E = torch.cat([torch.ones(len(self.sizes), dtype=torch.bool), hit_V])
        mean_E, square_E, weight = torch.zeros(self.size).double(), torch.zeros(self.size).double(), 0.0
        for rows in self._blocks(len(incident_N)):
            y_NE = self._coordinates(self._block(layers, rows), incident_N[rows], given).double()
            w_N = weight_N[rows]
            if (more := float(w_N.sum())) == 0:
                continue
            # Means and squares of blocks put together (Chan, Golub and LeVeque, 1979).
            mean = w_N @ y_NE / more
            square_E += w_N @ (y_NE - mean).square() + (mean - mean_E).square() * (weight * more / (weight + more))
            mean_E += (mean - mean_E) * (more / (weight + more))
            weight += more
        deviation_E = (square_E / weight).sqrt()
        # A voxel that is never hit says nothing, nor does the share of a layer that always has all.
        self.constant.copy_(~voxels_E | (deviation_E < 1e-6))
        self.mean.copy_(mean_E)
        self.deviation.copy_(torch.where(self.constant, 1.0, deviation_E))

    def _survey(self, layers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Energy above the threshold in each row, (N,), and which voxels are ever hit, (V,)."""
        rows = len(next(iter(layers.values())))
        total_N = torch.empty(rows, dtype=torch.float64)
        hit_V = torch.zeros(sum(self.sizes), dtype=torch.bool)
        everything = 0.0
        for part in self._blocks(rows):
            e_NV = self._block(layers, part)
            if (e_NV < 0).any():
                row, voxel = (int(number) for number in (e_NV < 0).nonzero()[0])
                count = sum(int((values < 0).flatten(1).any(1).sum()) for values in layers.values())
                raise InputError(
                    f"energies are negative in {count} training rows, the first in {self._names()[voxel]} of row "
                    f"{part.start + row}: {float(e_NV[row, voxel]):g}",
                    where="coordinates.layers",
                    cure="cut these rows in the dataset, or subtract no pedestals",
                )
            cleaned_NV = self._cleaned(e_NV)
            total_N[part] = cleaned_NV.sum(1, dtype=torch.float64)
            hit_V |= cleaned_NV.amax(0) > 0
            everything += float(e_NV.sum(dtype=torch.float64))
        lost = 1 - float(total_N.sum()) / everything if everything > 0 else 1.0
        if lost > _MOST_LOST:
            raise InputError(
                f"{100 * lost:.3g} % of the energy is in voxels below the threshold of {self.settings.threshold:g}",
                where="coordinates.threshold",
                cure="lower it; it is in the unit of the layers",
            )
        return total_N, hit_V

    def _check_response(self, ratio_N: Tensor) -> None:
        low, high = self.settings.expected
        median = float(ratio_N.median())
        if low <= median <= high:
            return
        factor = 10.0 ** round(math.log10(median)) if median > 0 else 0.0
        guess = f", a factor of {1 / factor if factor < 1 else factor:,.0f} off" if factor else ""
        raise InputError(
            f"half of the showers hold more than {median:.3g} times the incident energy '{self.settings.energy}', "
            f"half less; expected is {low:g} to {high:g}{guess}",
            where="coordinates.scale",
            cure="give the unit of the incident energy in that of the layers, 1000 for GeV beside MeV (now "
            f"{self.settings.scale:g}); where the response is meant, change 'expected'",
        )

    def _names(self) -> list[str]:
        return elements(self.columns, self.shapes)

    # ------------------------------------------------------------------------------------------------ there and back

    def forward(self, layers: Mapping[str, Tensor], given: Given = NOTHING) -> Tensor:
        """(N, *shape) of each layer to (N, E)."""
        incident_N = self._incident(given)
        parts = []
        for rows in self._blocks(len(incident_N)):
            y_NE = self._coordinates(self._block(layers, rows), incident_N[rows], given)
            parts.append(torch.where(self.constant, 0.0, (y_NE - self.mean) / self.deviation))
        return torch.cat(parts) if parts else self.mean.new_empty(0, self.size)

    def inverse(self, y_NE: Tensor, given: Given = NOTHING) -> dict[str, Tensor]:
        """(N, E) to (N, *shape) of each layer, by name; voxels are 0 or at least the threshold."""
        incident_N = self._incident(given)
        parts = [self._energies(y_NE[rows], incident_N[rows]) for rows in self._blocks(len(y_NE))]
        e_NV = torch.cat(parts) if parts else y_NE.new_empty(0, sum(self.sizes))
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        return {
            name: part.reshape(len(part), *self.shapes[name])
            for name, part in zip(self.columns, e_NV.split(sizes, dim=1), strict=True)
        }

    def _coordinates(self, e_NV: Tensor, incident_N: Tensor, given: Given) -> Tensor:
        """(N, V) to (N, E), before they are standardised."""
        threshold, margin = self.settings.threshold, self.settings.margin
        e_NV = self._cleaned(e_NV)
        sum_NL = self._sums(e_NV)
        empty = threshold * (1 - 2 * _SLACK)
        layer_NL = torch.where(sum_NL > 0, sum_NL, empty * given.uniform(sum_NL))
        rest_NL = layer_NL.flip(1).cumsum(1).flip(1)
        # 1 - u from the energies, not by a difference.
        total_N1 = rest_NL[:, :1] / (self.response.double() * incident_N[:, None])
        u_NL = torch.cat([total_N1.clamp(max=1), layer_NL[:, :-1] / rest_NL[:, :-1]], dim=1)
        v_NL = torch.cat([1 - u_NL[:, :1], rest_NL[:, 1:] / rest_NL[:, :-1]], dim=1)
        logit_NL = (margin + (1 - 2 * margin) * u_NL).log() - (margin + (1 - 2 * margin) * v_NL).log()

        below_NV = torch.where(e_NV > 0, e_NV, empty * given.uniform(e_NV))
        share_NV = below_NV / self._spread(sum_NL.clamp(min=threshold).to(e_NV.dtype))
        return torch.cat([logit_NL.to(e_NV.dtype), (margin + (1 - 2 * margin) * share_NV).logit()], dim=1)

    def _energies(self, y_NE: Tensor, incident_N: Tensor) -> Tensor:
        """(N, E) to (N, V)."""
        threshold, margin, layers = self.settings.threshold, self.settings.margin, len(self.sizes)
        least = threshold * (1 - _SLACK)
        y_NE = torch.where(self.constant, self.mean, y_NE * self.deviation + self.mean)
        y_NL = y_NE[:, :layers].double()
        u_NL, v_NL = (((p - margin) / (1 - 2 * margin)).clamp(0, 1) for p in (y_NL.sigmoid(), (-y_NL).sigmoid()))
        total_N1 = u_NL[:, :1] * self.response.double() * incident_N[:, None].clamp(min=0)
        rest_NL = torch.cat([total_N1, total_N1 * v_NL[:, 1:].cumprod(1)], dim=1)
        layer_NL = torch.cat([rest_NL[:, :-1] * u_NL[:, 1:], rest_NL[:, -1:]], dim=1)
        layer_NL = torch.where(layer_NL >= least, layer_NL, 0.0)

        share_NV = ((y_NE[:, layers:].sigmoid() - margin) / (1 - 2 * margin)).clamp(min=0)
        energy_NV = self._spread(layer_NL.to(y_NE.dtype))
        e_NV = torch.where(self.constant[layers:], 0.0, share_NV * energy_NV)
        if not self.settings.closed:
            return self._above(e_NV, e_NV >= least)
        # Physical showers come through both rounds as they are. Others may be scaled down in the first, so that voxels
        # fall below the threshold; in the second, energies only rise.
        for _ in range(2):
            e_NV = torch.where((e_NV >= least) | self._largest(e_NV), e_NV, 0.0)
            sums_NL = self._sums(e_NV)
            scale_NL = torch.where(sums_NL > 0, layer_NL / torch.where(sums_NL > 0, sums_NL, 1.0), 0.0)
            e_NV = e_NV * self._spread(scale_NL.to(e_NV.dtype))
        return self._above(e_NV, e_NV >= least)

    def _above(self, e_NV: Tensor, filled: Tensor) -> Tensor:
        return torch.where(filled, e_NV.clamp(min=self.settings.threshold), 0.0)

    # ------------------------------------------------------------------------------------------------------- pieces

    def _incident(self, given: Given) -> Tensor:
        """The incident energy in the unit of the layers, (N,) float64."""
        return given.conditions[self.settings.energy].double() * self.settings.scale

    def _cleaned(self, e_NV: Tensor) -> Tensor:
        """Without what lies below the threshold."""
        return nn.functional.threshold(e_NV, self.settings.threshold * (1 - _SLACK), 0.0)

    def _blocks(self, rows: int) -> Iterator[slice]:
        step = max(1, _AT_ONCE // self.size)
        return (slice(begin, min(begin + step, rows)) for begin in range(0, rows, step))

    def _block(self, layers: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Some rows, all voxels side by side, (n, V)."""
        return torch.cat([layers[name][rows].flatten(1) for name in self.columns], dim=1)

    def _parts(self, e_NV: Tensor) -> Sequence[Tensor]:
        return e_NV.split(self.sizes, dim=1)

    def _sums(self, e_NV: Tensor) -> Tensor:
        """Energy of each layer, (N, L) float64."""
        return torch.stack([part.sum(1, dtype=torch.float64) for part in self._parts(e_NV)], dim=1)

    def _spread(self, x_NL: Tensor) -> Tensor:
        """The number of its layer for each voxel, (N, V)."""
        return x_NL.index_select(1, self.layer_of_voxel)

    def _largest(self, e_NV: Tensor) -> Tensor:
        """Which voxel is the largest of its layer, (N, V) bool: one for each layer."""
        firsts = [part.argmax(1) for part in self._parts(e_NV)]
        begins = torch.tensor([0, *self.sizes[:-1]], device=e_NV.device).cumsum(0)
        index_NL = torch.stack(firsts, dim=1) + begins
        return torch.zeros_like(e_NV, dtype=torch.bool).scatter_(1, index_NL, True)
