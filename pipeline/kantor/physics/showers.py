"""Showers in a calorimeter: energies of layers, centres, widths, sparsity, depth, as expressions of the arrays.

The quantities are those of CaloGAN (Paganini, de Oliveira and Nachman, arXiv:1712.10321, section 4) and of the
CaloChallenge (arXiv:2410.21611). As there, centres and widths of an empty layer are 0.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import pi

import numpy as np

from kantor.config import ShowerPhysics
from kantor.errors import InputError
from kantor.expressions import Expression
from kantor.physics.base import Columns, Law, Observable, Physics
from kantor.results import Column
from kantor.shapes import Shape, shown

# What empty layers are divided by; far below any energy.
_NOTHING = "1e-10"


class Showers(Physics):
    """The field's usual quantities for a geometry.

    Raises:
        InputError: a layer is not an array with one or two axes.
    """

    def __init__(self, settings: ShowerPhysics, constants: Mapping[str, float], columns: Sequence[Column] = ()) -> None:
        self._settings = settings
        known = {column.name: column for column in columns}
        layers = _layers(settings.layers, known)
        if settings.energy is not None and settings.energy not in known:
            raise InputError(
                f"its physics is 'showers', and there is no '{settings.energy}'", cure="mend physics.energy"
            )
        found = _quantities(settings, layers, known[settings.layers[0]].unit)
        self.expressions = {observable.name: text for observable, text in found}
        self.observables = tuple(observable for observable, _ in found)
        self.classified = tuple(self.expressions)
        self._evaluated = {name: Expression(text) for name, text in self.expressions.items()}
        self.laws = (Law("energy_sign", "voxels with negative energy", lambda columns: self._any(columns, _negative)),)
        if settings.threshold > 0:
            self.laws += (Law("threshold", "voxels below the threshold", lambda of: self._any(of, self._below)),)
        if len(layers) > 1:
            self.planes = (("share_0", "share_1"), ("depth", "E_tot"))

    def derive(self, columns: Columns) -> dict[str, np.ndarray]:
        rows = len(next(iter(columns.values())))
        return {name: text.rows(columns, np, rows) for name, text in self._evaluated.items()}

    def _any(self, columns: Columns, wrong: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.any(
            [wrong(columns[name]).reshape(len(columns[name]), -1).any(1) for name in self._settings.layers], 0
        )

    def _below(self, e_NV: np.ndarray) -> np.ndarray:
        return (e_NV > 0) & (e_NV < np.float32(self._settings.threshold))


def _negative(e_NV: np.ndarray) -> np.ndarray:
    return e_NV < 0


def _layers(names: Sequence[str], known: Mapping[str, Column]) -> dict[str, Shape]:
    """Each layer as an expression, with its shape; one feature alone has them along its first axis."""
    for name in names:
        if name not in known or not known[name].shape:
            raise InputError(
                f"its physics is 'showers', but its feature '{name}' is not there or no array",
                cure="give it a shape, or mend physics.layers",
            )
    layers = {name: known[name].shape for name in names}
    if len(names) == 1:
        (name, (count, *rest)) = next(iter(layers.items()))
        layers = {f"{name}[{k}]": tuple(rest) for k in range(count)}
    for name, shape in layers.items():
        if len(shape) not in (1, 2):
            raise InputError(
                f"its physics is 'showers', and a layer has one or two axes; '{name}' has {shown(shape)}",
                cure="give one feature for each layer, or one with the layers along its first axis",
            )
    return layers


def _quantities(settings: ShowerPhysics, layers: Mapping[str, Shape], unit: str) -> list[tuple[Observable, str]]:
    """Observables and their expressions."""
    sums = [f"sum({layer})" for layer in layers]
    total = " + ".join(sums) if len(settings.layers) > 1 else f"sum({settings.layers[0]})"
    found = [(Observable("E_tot", "E_tot", unit, "derived"), total)]
    if settings.energy is not None:
        response = f"({total}) / ({settings.scale!r} * {settings.energy})"
        found.append((Observable("response", "E_tot / E_inc", "", "derived"), response))
    if len(layers) > 1:
        first, second = (" + ".join(f"{k**power} * {e}" for k, e in enumerate(sums)) for power in (1, 2))
        depth, square = (f"({weighted}) / maximum({total}, {_NOTHING})" for weighted in (first, second))
        found.append((Observable("depth", "mean layer", "", "derived"), depth))
        found.append((Observable("depth_width", "spread over layers", "", "derived"), _root(square, depth)))
    for k, (layer, shape) in enumerate(layers.items()):
        energy = f"sum({layer})"
        found.append((Observable(f"E_{k}", f"E_{k}", unit, "derived"), energy))
        if len(layers) > 1:
            share = f"{energy} / maximum({total}, {_NOTHING})"
            found.append((Observable(f"share_{k}", f"E_{k} / E_tot", "", "derived"), share))
        hit = f">= {settings.threshold!r}" if settings.threshold > 0 else "> 0"
        sparsity = f"mean({layer} {hit})"
        found.append((Observable(f"sparsity_{k}", f"hit cells of layer {k}", "", "derived"), sparsity))
        if np.prod(shape) > 1:
            ratio = f"(largest({layer}, 1) - largest({layer}, 2)) / maximum(largest({layer}, 1), {_NOTHING})"
            found.append((Observable(f"gap_{k}", f"(E1 - E2) / E1 of layer {k}", "", "derived"), ratio))
        for axis, position in _positions(settings, layer, shape).items():
            mean, square = (
                f"sum({layer} * {of}) / maximum({energy}, {_NOTHING})" for of in (position, f"({position})**2")
            )
            length = settings.length_unit
            found.append((Observable(f"centre_{axis}_{k}", f"centre {axis} of layer {k}", length, "derived"), mean))
            found.append(
                (Observable(f"width_{axis}_{k}", f"width {axis} of layer {k}", length, "derived"), _root(square, mean))
            )
    return found


def _root(square: str, mean: str) -> str:
    # Above 0, where the root has no slope.
    return f"sqrt(maximum({square} - ({mean})**2, 1e-12))"


def _positions(settings: ShowerPhysics, layer: str, shape: Shape) -> dict[str, str]:
    """Where the cells of a layer are along each direction."""
    size = settings.size
    if settings.geometry == "cylinder" and len(shape) == 2:
        radius = _radius(settings, layer, shape[1])
        if shape[0] == 1:
            return {"r": radius}
        angle = f"((index({layer}, 0) + 0.5) * {2 * pi / shape[0]!r} - pi)"
        names = settings.axes or ["x", "y"]
        return {names[0]: f"{radius} * cos{angle}", names[1]: f"{radius} * sin{angle}"}
    names = settings.axes or ["x", "y"]
    extents = size or shape
    return {
        name: f"((index({layer}, {axis}) + 0.5) * {extent / count!r} - {extent / 2!r})"
        for axis, (name, extent, count) in enumerate(zip(names, extents, shape, strict=False))
        if count > 1
    }


def _radius(settings: ShowerPhysics, layer: str, count: int) -> str:
    """Of the middle of each cell."""
    index = f"index({layer}, 1)"
    if settings.radii is None:
        return f"(({index} + 0.5) * {(settings.size[0] if settings.size else count) / count!r})"
    edges = settings.radii[layer.partition("[")[0]]
    if len(edges) != count + 1:
        raise InputError(
            f"its layer '{layer}' has {count} cells along the radius, and {len(edges)} edges",
            cure="mend physics.radii: there is one edge more than cells",
        )
    *middles, last = [(low + high) / 2 for low, high in pairwise(edges)]
    text = repr(last)
    for number, middle in reversed(list(enumerate(middles, start=1))):
        text = f"where({index} < {number}, {middle!r}, {text})"
    return text
