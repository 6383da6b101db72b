"""What hides an edge of the distribution from the networks, and the YAML that cures it (docs/coordinates.md).

A critic with a bounded slope sees what its inputs spread out. It misses an edge onto which most events are piled up,
and spends its slope on a tail that most events are not in.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import numpy as np

from kantor.config import DisPhysics, Training
from kantor.data.manifest import Manifest
from kantor.data.samples import Sample
from kantor.expressions import Expression
from kantor.physics.dis import kinematics
from kantor.resolution import is_constant

ROWS = 50_000
"""Rows that are looked at, at most."""

_LEVELS = (0, 0.001, 0.25, 0.5, 0.75, 0.999, 1)
_NEAR, _PILED, _FAR = 0.01, 0.1, 0.05
_SPIKE = 0.01
# (q99.9 - q0.1) / (q75 - q25): 4.6 of a normal distribution, 6 of an exponential one, 345 of a Cauchy distribution.
_HEAVY, _STEEP, _BETTER = 25.0, 15.0, 4.0
_SAME = 0.999


@dataclass(frozen=True)
class Advice:
    """field: where in the training. seen: in its rows. cure: what the training should have, as in the configuration."""

    field: str
    seen: str
    cure: Mapping[str, Any]


def advise(settings: Training, manifest: Manifest, train: Sample) -> list[Advice]:
    """What of a training hides an edge, by at most `ROWS` of its training rows.

    Args:
        train: the training split.
    """
    rows = train.take(slice(ROWS))
    if rows.weights is not None:
        rows = rows.take(rows.weights > 0)
    columns = {name: values.astype(np.float64) for name, values in rows.columns().items()}
    return [
        *_of_columns(settings, columns),
        *_of_physics(settings, manifest, columns),
        *_of_features(settings, columns),
    ]


def _of_columns(settings: Training, columns: Mapping[str, np.ndarray]) -> Iterator[Advice]:
    mapped = {name for each in settings.coordinates for name in each.mapped}
    for name, values in columns.items():
        if name in mapped or name in settings.transforms or not _tells(values):
            continue
        seen = _Seen(values)
        if spike := seen.spike():
            value, share, gap = spike
            interval = [value, value + float(f"{gap / 2:.1g}")] if seen.low == value else [value - gap / 2, value]
            chain: dict[str, Any] = {"kind": "dequantise", "value": value, "interval": interval}
            said = f"{100 * share:.3g} % of the rows are exactly {value:g}, a spike that no network generates"
        elif pile := seen.pile():
            edge, side, share = pile
            chain = {"kind": "log_distance", "edge": edge, "side": side}
            said = f"{100 * share:.3g} % of the rows are piled up within 1 % of the range {side} {edge:g}"
        elif seen.tails > _HEAVY:
            chain = {"kind": "quantile_normal"}
            said = f"heavy tails: 99.8 % of the rows are {seen.tails:.3g} times as wide as half of them"
        else:
            continue
        more = [] if chain["kind"] == "quantile_normal" else [{"kind": "standardise"}]
        yield Advice(f"column '{name}'", f"{said}; {seen}", {"transforms": {name: [chain, *more]}})


def _of_physics(settings: Training, manifest: Manifest, columns: Mapping[str, np.ndarray]) -> Iterator[Advice]:
    """An edge of a function of several columns, which none of them shows."""
    physics = manifest.physics
    momentum = ("px", "py", "pz")
    free = not any(set(momentum) & set(each.mapped) for each in settings.coordinates)
    if isinstance(physics, DisPhysics) and free and set(momentum) <= set(manifest.feature_names):
        seen = _Seen(kinematics(np.stack([columns[name] for name in momentum], axis=1), physics).q2)
        if pile := seen.pile():
            beams = {name: getattr(physics, name) for name in ("electron_energy", "proton_energy", "q2_min")}
            said = f"{100 * pile[2]:.3g} % of the rows are piled up above its cut, an edge that no column shows"
            if chained := sorted(set(momentum) & set(settings.transforms)):
                said += f" (take {', '.join(chained)} out of 'transforms', then)"
            yield Advice("Q2 of the physics", f"{said}; {seen}", {"coordinates": [{"kind": "dis", **beams}]})


def _of_features(settings: Training, columns: Mapping[str, np.ndarray]) -> Iterator[Advice]:
    """Of what the critic also sees, unless it sees the same spread out."""
    known, found = {**columns}, {}
    with np.errstate(all="ignore"):
        for name, text in settings.critic_features.items():
            known[name] = Expression(text).rows(known, np, len(next(iter(columns.values()))))
            if _tells(known[name]):
                found[name] = _Seen(known[name])
    open_ = [np.argsort(np.argsort(seen.values)) for seen in found.values() if not seen.pile()]
    for name, seen in found.items():
        flipped = _flipped(settings.critic_features[name])
        if seen.tails > _STEEP and flipped and (seen.values != 0).all():
            turned = _Seen(1 / seen.values).tails
            if turned * _BETTER < seen.tails:
                said = (
                    f"a ratio the wrong way up: 99.8 % of the rows are {seen.tails:.3g} times as wide as half of them, "
                    f"of its inverse {turned:.3g} times"
                )
                yield Advice(f"critic_features.{name}", f"{said}; {seen}", {"critic_features": {name: flipped}})
                continue
        pile = seen.pile()
        ranks = np.argsort(np.argsort(seen.values))
        if pile and not any(abs(np.corrcoef(ranks, other)[0, 1]) > _SAME for other in open_):
            edge, side, share = pile
            distance = f"{edge:g} - {name}" if side == "below" else f"{name} - {edge:g}".replace("- -", "+ ")
            least = float(f"{max(seen.nearest(edge), 1e-12):.1g}")
            cure = {"critic_features": {f"log_{name}": f"log(maximum({distance}, {least:g}))"}}
            said = f"{100 * share:.3g} % of the rows are piled up within 1 % of the range {side} {edge:g}"
            yield Advice(f"critic_features.{name}", f"{said}; {seen}", cure)


def _tells(values: np.ndarray) -> bool:
    """Whether it is a number that varies and is finite; what is not is somebody else's to refuse."""
    return values.ndim == 1 and bool(np.isfinite(values).all()) and not is_constant(values.min(), values.max())


def _flipped(text: str) -> str | None:
    """A ratio the other way up; None where it is no ratio."""
    root = ast.parse(text.strip(), mode="eval").body
    if not (isinstance(root, ast.BinOp) and isinstance(root.op, ast.Div)):
        return None
    return ast.unparse(ast.BinOp(root.right, ast.Div(), root.left))


class _Seen:
    """Values of a quantity (N,) and what they look like."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self._quantiles = np.quantile(values, _LEVELS)
        self.low, self._q25, self.median, self._q75, self.high = (float(self._quantiles[k]) for k in (0, 2, 3, 4, 6))

    def __str__(self) -> str:
        numbers = ", ".join(f"{value:.4g}" for value in self._quantiles)
        return f"quantiles 0, 0.1, 25, 50, 75, 99.9, 100 %: {numbers}"

    @property
    def tails(self) -> float:
        middle = self._q75 - self._q25
        return float(self._quantiles[5] - self._quantiles[1]) / middle if middle > 0 else 0.0

    def pile(self) -> tuple[float, str, float] | None:
        """A round edge near which most values lie, on which side of it, and which part within 1 % of the range."""
        width = self.high - self.low
        for end, sign, side in ((self.high, 1, "below"), (self.low, -1, "above")):
            far = sign * (end - self.median) / width
            share = float(np.mean(sign * (end - self.values) <= _NEAR * width))
            if 0 < far < _FAR and share > _PILED and float(np.mean(self.values == end)) < _SPIKE:
                step = 10.0 ** floor(log10(far * width))
                edge = ceil(end / step) * step if sign > 0 else floor(end / step) * step
                return float(f"{edge if edge != end else edge + sign * step:.12g}"), side, share
        return None

    def spike(self) -> tuple[float, float, float] | None:
        """The end at which many values are one, which part of them, and how far the next value is."""
        for end, sign in ((self.low, 1), (self.high, -1)):
            share = float(np.mean(self.values == end))
            rest = sign * (self.values - end)
            if _SPIKE <= share < 1 and (gap := float(rest[rest > 0].min())) > 0 and len(np.unique(self.values)) > 100:
                return end, share, gap
        return None

    def nearest(self, edge: float) -> float:
        return float(np.abs(self.values - edge).min())
