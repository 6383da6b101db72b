"""The quantities that are compared: the features, what the physics derives from them, and the user's expressions."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kantor.data.manifest import Manifest
from kantor.data.samples import Sample
from kantor.expressions import Expression
from kantor.physics import Observable, physics_of


class Observables:
    """All observables of a dataset, and their values for any sample of it.

    Raises:
        InputError: the physics needs columns that the dataset does not have.
        ConfigError: an expression reads an unknown column.
    """

    def __init__(self, manifest: Manifest, expressions: Mapping[str, str], where: Path) -> None:
        self.physics = physics_of(manifest, where)
        self._expressions = {name: Expression(text) for name, text in expressions.items()}
        labels = self.physics.labels
        features = [
            Observable(column.name, less(labels.get(column.name, column.name), column.offset), column.unit, "feature")
            for column in manifest.features
        ]
        own = [Observable(name, name, "", "derived") for name in self._expressions]
        # A user's expression replaces what has the same name.
        self.all = list({each.name: each for each in [*features, *self.physics.observables, *own]}.values())

    def values(self, sample: Sample, known: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Each observable's name with its values (N,), of features as stored; they need not be finite.

        Args:
            known: of the sample, where it is at hand.
        """
        known = self.known(sample) if known is None else known
        columns = {**known} | dict(zip(sample.feature_names, sample.features.T, strict=True))
        with np.errstate(all="ignore"):
            own = {name: np.broadcast_to(text(known, np), sample.rows) for name, text in self._expressions.items()}
        columns |= own
        return {observable.name: columns[observable.name] for observable in self.all}

    def known(self, sample: Sample) -> dict[str, np.ndarray]:
        """The staged columns and what the physics derives from them, (N,) each."""
        columns = sample.columns()
        return columns | self.physics.derive(columns)

    def classified(self, sample: Sample) -> np.ndarray:
        """What the classifier sees, (N, K) float64: features and conditions as staged, and what the physics adds.

        Generated and true rows have passed through float32 alike, and what is derived is computed from both in the
        same way, so that rounding tells nothing.
        """
        columns = joint(sample).astype(np.float64)
        if not self.physics.classified:
            return columns
        derived = self.physics.derive(sample.columns())
        return np.column_stack([columns, *(derived[name] for name in self.physics.classified)])


def less(label: str, offset: float) -> str:
    """What axes call a quantity that is shown less an offset."""
    return f"{label} − {offset:.15g}" if offset else label


def joint(sample: Sample) -> np.ndarray:
    """Features and conditions as stored, side by side, (N, D + C) float32."""
    return np.concatenate([sample.features, sample.conditions], axis=1)
