"""The statistics of one comparison, cut into pieces that ranks share.

A piece runs on one thread and depends on its name alone, never on the rank: sums round differently on other numbers
of threads. So the results are the same, to the bit, on any number of ranks.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kantor.config import Validation
from kantor.data.samples import Sample
from kantor.machine.progress import Progress
from kantor.machine.ranks import Ranks
from kantor.physics import Modes, Observable
from kantor.results import Measurement
from kantor.validation.checks import check
from kantor.validation.classifier import classifier_test
from kantor.validation.energy import PermutationTest, energy_distance_estimate, permutation_test, split_distances
from kantor.validation.histograms import Correlations, Figures, Histogram, Plane, Scatter, edges_of, fill, fill_plane
from kantor.validation.observables import Observables, joint, less
from kantor.validation.sides import Side, Sides, measurement
from kantor.validation.statistics import (
    Estimate,
    Weights,
    compare_1d,
    correlation_distance,
    correlations,
    random_halves,
    split_distances_1d,
)

# Random relabellings behind the energy distance's p-value, shared over pieces.
PERMUTATIONS, _PERMUTATION_PIECES = 300, 2
_POINTS = 2500  # of a scatter plot
_UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class Measures:
    """Generated against true rows, with halves of the pool against each other as the reference."""

    settings: Validation
    observables: Observables
    sides: Sides
    halves: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = random_stream(self.settings.seed, "splits")
        rows = self.sides.truth.sample.rows
        object.__setattr__(self, "halves", random_halves(rows, self.settings.splits, rng))

    @classmethod
    def of(
        cls, settings: Validation, observables: Observables, truth: Sample, generated: Sample, pool: Sample
    ) -> "Measures":
        """Generated against true rows, N each, with 2 N rows of truth, which are divided at random."""
        generated_side, truth_side, pool_side = (Side.of(sample, observables) for sample in (generated, truth, pool))
        return cls(settings, observables, Sides(generated_side, truth_side, pool_side))

    def run(self, ranks: Ranks) -> tuple[list[Measurement], Figures]:
        """Share the pieces over the ranks and put the results together; equal on every rank."""
        # Long pieces in the middle: the time left that the progress expects is then about right, and loads are equal.
        work: dict[Any, Callable[[], Any]] = {
            "area": self.area,
            **{("area", k): lambda k=k: self.area_of_split(k) for k in range(self.settings.splits)},
            **{("permutations", k): lambda k=k: self.permutations(k) for k in range(_PERMUTATION_PIECES)},
            "energy splits": self.energy_splits,
            "energy": self.energy,
            **{("observable", each.name): lambda each=each: self.observable(each) for each in self.observables.all},
            "correlations": self.correlations,
        }
        done = shared(work, ranks)
        permutations = [done["permutations", k] for k in range(_PERMUTATION_PIECES)]
        areas = np.array([done["area", k] for k in range(self.settings.splits)])
        compared = [done["observable", each.name] for each in self.observables.all]
        distance, matrices = done["correlations"]
        measurements = [
            _energy_measurement(done["energy"], done["energy splits"], permutations),
            measurement("c2st_auc", "classifier AUC", done["area"], Estimate.spread(areas)),
            distance,
        ]
        one_by_one = [found for of, _ in compared for found in of]
        for statistic in ("w1", "ks"):
            measurements += [found for found in one_by_one if found.statistic == statistic]
        physics = self.observables.physics
        measurements += self.laws()
        for what in physics.checks:
            measurements += check(what, self.sides, self.settings.confidence)
        measurements += [found for found in one_by_one if found.statistic == "undefined"]
        planes = [self.plane(x, y) for x, y in physics.planes]
        return measurements, Figures([histogram for _, histogram in compared], matrices, planes, self.scatter())

    # -------------------------------------------------------------------------------------------- joint statistics

    def energy(self) -> tuple[float, float]:
        x, y = self.sides.generated, self.sides.truth
        return energy_distance_estimate(joint(x.sample), joint(y.sample), x.weights, y.weights)

    def energy_splits(self) -> np.ndarray:
        return split_distances(joint(self.sides.pool.sample), self.sides.pool.weights, self.halves)

    def permutations(self, piece: int) -> PermutationTest:
        x, y = self.sides.generated, self.sides.truth
        seed = int(random_stream(self.settings.seed, "permutations", piece).integers(2**63))
        count = PERMUTATIONS // _PERMUTATION_PIECES
        return permutation_test(joint(x.sample), joint(y.sample), x.weights, y.weights, permutations=count, seed=seed)

    def area(self) -> Estimate:
        return self._classify(self.sides.generated.sample, self.sides.truth.sample)

    def area_of_split(self, split: int) -> float:
        half, pool = self.halves[split], self.sides.pool.sample
        return self._classify(pool.take(half), pool.take(~half)).value

    def _classify(self, x: Sample, y: Sample) -> Estimate:
        columns = self.observables.classified
        return classifier_test(columns(x), columns(y), x.weights, y.weights, seed=self.settings.seed)

    def correlations(self) -> tuple[Measurement, Correlations]:
        """Mean |difference| of the correlation coefficients, with the matrices themselves."""
        names = [each.name for each in self.observables.all]
        (x, u), (y, v), (z, w) = (
            _complete(side, names) for side in (self.sides.generated, self.sides.truth, self.sides.pool)
        )
        rng = random_stream(self.settings.seed, "bootstrap", "correlations")
        generated, truth = correlations(x, u), correlations(y, v)
        drawn = [correlation_distance(_redrawn(x, u, rng), _redrawn(y, v, rng)) for _ in range(self.settings.replicas)]
        rows = np.isfinite(np.stack([self.sides.pool.values[name] for name in names])).all(axis=0)
        splits = [
            correlation_distance(correlations(z[half], _of(w, half)), correlations(z[~half], _of(w, ~half)))
            for half in self.halves[:, rows]
        ]
        found = Estimate.symmetric(correlation_distance(generated, truth), float(np.std(drawn, ddof=1)))
        reference = Estimate.spread(np.array(splits))
        return measurement("correlation", "mean |Δρ|", found, reference), Correlations(names, truth, generated)

    # ------------------------------------------------------------------------------------ one observable at a time

    def observable(self, observable: Observable) -> tuple[list[Measurement], Histogram]:
        """W1, KS and the histograms of one observable, and how often it is not defined."""
        name = observable.name
        (x, u, x_rows), (y, v, y_rows), (z, w, z_rows) = (
            side.finite(name) for side in (self.sides.generated, self.sides.truth, self.sides.pool)
        )
        rng = random_stream(self.settings.seed, "bootstrap", name)
        w1, ks = _UNKNOWN, _UNKNOWN
        if min(len(x), len(y)) >= 2:
            w1, ks = compare_1d(x, y, u, v, replicas=self.settings.replicas, rng=rng)
        references = split_distances_1d(z, w, self.halves[:, z_rows])
        label, unit = observable.compared_label, observable.compared_unit
        found = [
            measurement("w1", f"W1 of {label}", w1, Estimate.spread(references[:, 0]), observable=name, unit=unit),
            measurement("ks", f"KS of {label}", ks, Estimate.spread(references[:, 1]), observable=name),
        ]
        if not (x_rows.all() and y_rows.all()):
            found.append(self._fraction("undefined", f"{label} not defined", ~x_rows, ~y_rows, observable=name))
        edges = edges_of(observable, z, w, self.settings.bins)
        filled = (fill(observable, edges, values, weights) for values, weights in ((y, v), (x, u)))
        return found, Histogram(observable, edges, *filled)

    # ------------------------------------------------------------------------------------------------------- physics

    def laws(self) -> list[Measurement]:
        """Fraction of events that break each law of the physics."""
        return [
            self._fraction(
                "law",
                law.label,
                law.broken(self.sides.generated.known),
                law.broken(self.sides.truth.known),
                observable=law.name,
                headline=law.headline,
            )
            for law in self.observables.physics.laws
        ]

    def redrawn(self, rows: np.ndarray) -> Measurement:
        """How many generated events, (N,) bool, failed the sample's cuts at first; of truth, none."""
        return self._fraction("redrawn", "drawn again, to obey the cuts", rows, np.zeros_like(rows))

    def plane(self, x: str, y: str) -> Plane:
        """Two observables against each other."""
        named = {each.name: each for each in self.observables.all}
        x_edges, y_edges = (
            edges_of(named[name], *self.sides.pool.finite(name)[:2], self.settings.bins) for name in (x, y)
        )
        truth, generated = (
            fill_plane(
                named[x].compared(x_edges), named[y].compared(y_edges), side.values[x], side.values[y], side.weights
            )
            for side in (self.sides.truth, self.sides.generated)
        )
        return Plane(x, y, x_edges, y_edges, truth, generated)

    def scatter(self) -> Scatter | None:
        """Some rows of two features, as points."""
        sample = self.sides.truth.sample
        if sample.features.shape[1] != 2 or sample.shapes or sample.condition_names or sample.weights is not None:
            return None
        modes = [what for what in self.observables.physics.checks if isinstance(what, Modes)]
        centres, sigma = (modes[0].centres, modes[0].sigma) if modes else (np.empty((0, 2)), float("nan"))
        x, y = (less(name, sample.offsets.get(name, 0.0)) for name in sample.feature_names)
        truth, generated = (side.sample.features[:_POINTS] for side in (self.sides.truth, self.sides.generated))
        return Scatter(x, y, truth, generated, centres, sigma)

    def _fraction(
        self, statistic: str, label: str, generated: np.ndarray, truth: np.ndarray, **more: Any
    ) -> Measurement:
        return self.sides.fraction(statistic, label, generated, truth, confidence=self.settings.confidence, **more)


def shared(work: Mapping[Any, Callable[[], Any]], ranks: Ranks) -> dict[Any, Any]:
    """Do all pieces of work on all ranks together; every rank gets all results, by name."""
    names = list(work)
    label = "measures on this rank" if ranks.size > 1 else "measures"
    progress = Progress(label, len(ranks.mine(len(names)))) if ranks.is_root else None

    def piece(number: int) -> Any:
        result = work[names[number]]()
        if progress is not None:
            progress.update(progress.done + 1)
        return result

    results = ranks.gather(len(names), piece)
    if progress is not None:
        progress.close()
    return dict(zip(names, results, strict=True))


def random_stream(seed: int, purpose: str, part: str | int = "") -> np.random.Generator:
    """Random numbers that depend on the seed and on what they are for, and on nothing else."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose}/{part}".encode())])


def _energy_measurement(
    found: tuple[float, float], splits: np.ndarray, permutations: Sequence[PermutationTest]
) -> Measurement:
    # Every piece has the same statistic; together the pieces are one test.
    null = np.concatenate([piece.null for piece in permutations])
    p_value = PermutationTest(permutations[0].statistic, null).p_value
    return measurement(
        "energy_distance",
        "energy distance",
        Estimate.symmetric(*found, p_value),
        Estimate.spread(splits),
        unit="σ",
    )


def _complete(side: Side, names: Sequence[str]) -> tuple[np.ndarray, Weights]:
    """The observables side by side (N', K) and the weights, of the rows where all are finite."""
    columns = np.stack([side.values[name] for name in names], axis=1)
    rows = np.flatnonzero(np.isfinite(columns).all(axis=1))
    return columns[rows], _of(side.weights, rows)


def _redrawn(columns: np.ndarray, weights: Weights, rng: np.random.Generator) -> np.ndarray:
    """The correlation matrix of a bootstrap replica."""
    rows = rng.integers(len(columns), size=len(columns))
    return correlations(columns[rows], _of(weights, rows))


def _of(weights: Weights, rows: np.ndarray) -> Weights:
    return None if weights is None else weights[rows]
