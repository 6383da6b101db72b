"""Histograms and correlation matrices of a comparison, and the file that keeps them: validation.h5.

    observables/<name>/            attributes label, unit, kind, scale
        edges                      (B + 1,) [unit]
        truth, generated           (2, B + 2): sums of weights and of squared weights, with under- and overflow
    planes/<n>/                    attributes x, y: names of the observables; those the physics names
        x_edges, y_edges           (B + 1,)
        truth, generated           (B, B) sums of weights
    correlations/                  attribute names
        truth, generated           (K, K)
    scatter/                       attributes x, y, sigma; only with two features and neither conditions nor weights
        truth, generated           (n, 2) rows
        centres                    (modes, 2), none where no modes are known

Sums of weights are not normalised; divide by the sum over all bins, under- and overflow included.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import hist
import numpy as np

from kantor.errors import InputError
from kantor.machine.files import content, whole
from kantor.physics import Observable
from kantor.validation.statistics import Weights, weighted_quantiles

_QUANTILES = [0.001, 0.999]
_MARGIN = 0.05
_ATTRIBUTES = ("label", "unit", "kind", "scale")


@dataclass(frozen=True, eq=False)
class Histogram:
    """One observable, true and generated.

    edges: (B + 1,) in the observable's unit. truth, generated: (2, B + 2), sums of weights and of squared weights.
    """

    observable: Observable
    edges: np.ndarray
    truth: np.ndarray
    generated: np.ndarray


@dataclass(frozen=True, eq=False)
class Plane:
    """Two observables against each other; counts are (B, B) sums of weights."""

    x: str
    y: str
    x_edges: np.ndarray
    y_edges: np.ndarray
    truth: np.ndarray
    generated: np.ndarray


@dataclass(frozen=True, eq=False)
class Correlations:
    """Correlation matrices (K, K) of the observables `names`."""

    names: list[str]
    truth: np.ndarray
    generated: np.ndarray


@dataclass(frozen=True, eq=False)
class Scatter:
    """Some rows of the two features x and y, (n, 2) each, with the centres (modes, 2) and width of known modes."""

    x: str
    y: str
    truth: np.ndarray
    generated: np.ndarray
    centres: np.ndarray
    sigma: float


@dataclass(frozen=True, eq=False)
class Figures:
    """Everything a comparison keeps for its pictures."""

    histograms: list[Histogram]
    correlations: Correlations
    planes: Sequence[Plane] = ()
    scatter: Scatter | None = None

    def write(self, path: Path) -> None:
        """Write validation.h5 whole.

        Raises:
            InputError: the file cannot be written.
        """
        with whole(path) as temporary, h5py.File(temporary, "w") as file:
            groups = file.create_group("observables", track_order=True)
            for histogram in self.histograms:
                group = groups.create_group(histogram.observable.name)
                for name in _ATTRIBUTES:
                    group.attrs[name] = getattr(histogram.observable, name)
                for name in ("edges", "truth", "generated"):
                    group[name] = getattr(histogram, name)
            group = file.create_group("correlations")
            group.attrs["names"] = self.correlations.names
            group["truth"], group["generated"] = self.correlations.truth, self.correlations.generated
            for number, plane in enumerate(self.planes):
                group = file.create_group(f"planes/{number}")
                group.attrs["x"], group.attrs["y"] = plane.x, plane.y
                for name in ("x_edges", "y_edges", "truth", "generated"):
                    group[name] = getattr(plane, name)
            if self.scatter is not None:
                group = file.create_group("scatter")
                for name in ("x", "y", "sigma"):
                    group.attrs[name] = getattr(self.scatter, name)
                for name in ("truth", "generated", "centres"):
                    group[name] = getattr(self.scatter, name)

    @classmethod
    def read(cls, path: Path) -> "Figures":
        """Read validation.h5.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            with h5py.File(io.BytesIO(content(path, "run: kantor validate")), "r") as file:
                return cls(_read_histograms(file), _read_correlations(file), _read_planes(file), _read_scatter(file))
        except (OSError, KeyError) as error:
            raise InputError(
                f"cannot be read: {error}", where=path, cure="remove it, and run: kantor validate"
            ) from error


def _read_histograms(file: h5py.File) -> list[Histogram]:
    groups = _group(file, "observables")
    return [
        Histogram(
            Observable(name, **{key: str(_group(groups, name).attrs[key]) for key in _ATTRIBUTES}),  # pyright: ignore[reportArgumentType]
            *(_array(groups, f"{name}/{part}") for part in ("edges", "truth", "generated")),
        )
        for name in groups
    ]


def _read_correlations(file: h5py.File) -> Correlations:
    names = [str(name) for name in np.asarray(_group(file, "correlations").attrs["names"])]
    return Correlations(names, *(_array(file, f"correlations/{part}") for part in ("truth", "generated")))


def _read_planes(file: h5py.File) -> list[Plane]:
    planes = []
    for number in range(len(_group(file, "planes")) if "planes" in file else 0):
        group = _group(file, f"planes/{number}")
        arrays = (_array(group, name) for name in ("x_edges", "y_edges", "truth", "generated"))
        planes.append(Plane(str(group.attrs["x"]), str(group.attrs["y"]), *arrays))
    return planes


def _read_scatter(file: h5py.File) -> Scatter | None:
    if "scatter" not in file:
        return None
    group = _group(file, "scatter")
    truth, generated, centres = (_array(group, name) for name in ("truth", "generated", "centres"))
    sigma = float(np.asarray(group.attrs["sigma"]))
    return Scatter(str(group.attrs["x"]), str(group.attrs["y"]), truth, generated, centres, sigma)


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    group = parent[name]
    assert isinstance(group, h5py.Group)
    return group


def _array(parent: h5py.Group, name: str) -> np.ndarray:
    dataset = parent[name]
    assert isinstance(dataset, h5py.Dataset)
    return dataset[()]


def edges_of(observable: Observable, truth: np.ndarray, weights: Weights, bins: int) -> np.ndarray:
    """Edges of even bins over the central 99.8 % of the truth, with a margin of 5 % where rows may wrongly be.

    Args:
        truth: (N,) finite values as they are compared (log10 of a `log` observable).

    Returns:
        (bins + 1,) in the observable's unit.
    """
    low, high = weighted_quantiles(truth, _QUANTILES, weights)
    margin = _MARGIN * (high - low) or 0.5 * max(abs(high), 1.0)
    edges = np.linspace(low - margin, high + margin, bins + 1)
    return 10**edges if observable.scale == "log" else edges


def fill(observable: Observable, edges: np.ndarray, values: np.ndarray, weights: Weights) -> np.ndarray:
    """Sums of weights and of squared weights per bin, (2, B + 2) with under- and overflow; NaN is left out.

    Args:
        values: (N,) as they are compared.
    """
    finite = np.isfinite(values)
    axis = hist.axis.Variable(np.log10(edges) if observable.scale == "log" else edges)
    filled = hist.Hist(axis, storage=hist.storage.Weight())
    filled.fill(values[finite], weight=1.0 if weights is None else weights[finite])
    return np.stack([np.asarray(filled.values(flow=True)), np.asarray(filled.variances(flow=True))])


def fill_plane(x_edges: np.ndarray, y_edges: np.ndarray, x: np.ndarray, y: np.ndarray, weights: Weights) -> np.ndarray:
    """Sums of weights in two dimensions, (B, B), rows for x; NaN and what lies outside are left out."""
    inside = np.isfinite(x) & np.isfinite(y)
    kept = None if weights is None else weights[inside]
    return np.histogram2d(x[inside], y[inside], [x_edges, y_edges], weights=kept)[0]
