"""The quantities that are compared: the features, what the physics derives from them, and the user's expressions.

One number per event each. Of a feature that is an array these are its sum and how many elements are not zero, unless
its physics names others; an expression that gives an array is one quantity for each of its elements.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kantor.data.manifest import Manifest
from kantor.data.samples import Sample
from kantor.errors import ConfigError
from kantor.expressions import Expression
from kantor.physics import Observable, physics_of
from kantor.shapes import Shape, elements


class Observables:
    """All observables of a dataset, and their values for any sample of it.

    Raises:
        InputError: the physics needs columns that the dataset does not have.
        ConfigError: an expression reads an unknown column, or its arrays do not go together.
    """

    def __init__(self, manifest: Manifest, expressions: Mapping[str, str], where: Path) -> None:
        self.physics = physics_of(manifest, where)
        self._expressions = {name: Expression(text) for name, text in expressions.items()}
        labels = self.physics.labels
        features = [
            Observable(column.name, less(labels.get(column.name, column.name), column.offset), column.unit, "feature")
            for column in manifest.features
            if not column.shape
        ]
        self._arrays: dict[str, Expression] = {}
        if not self.physics.observables:
            for column in manifest.features:
                if column.shape:
                    features += [
                        Observable(f"{column.name}_sum", f"sum of {column.name}", column.unit, "derived"),
                        Observable(f"{column.name}_count", f"elements of {column.name} that are not 0", "", "derived"),
                    ]
                    self._arrays[f"{column.name}_sum"] = Expression(f"sum({column.name})")
                    self._arrays[f"{column.name}_count"] = Expression(f"count({column.name})")
        self._shapes = self._expression_shapes(manifest)
        own = [Observable(name, name, "", "derived") for name in elements(list(self._expressions), self._shapes)]
        # A user's expression replaces what has the same name.
        self.all = list({each.name: each for each in [*features, *self.physics.observables, *own]}.values())

    def values(self, sample: Sample, known: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Each observable's name with its values (N,), of features as stored; they need not be finite.

        Args:
            known: of the sample, where it is at hand.
        """
        known = self.known(sample) if known is None else known
        columns = {**known} | sample.stored_features()
        with np.errstate(all="ignore"):
            for name, text in (self._arrays | self._expressions).items():
                values = text.rows(known, np, sample.rows)
                names = elements([name], self._shapes)
                columns |= zip(names, values.reshape(sample.rows, -1).T, strict=True)
        return {observable.name: columns[observable.name] for observable in self.all}

    def _expression_shapes(self, manifest: Manifest) -> dict[str, Shape]:
        """Shape of each expression that gives more than one number per event."""
        one = {column.name: np.ones((1, *column.shape)) for column in [*manifest.features, *manifest.conditions]}
        with np.errstate(all="ignore"):
            one |= self.physics.derive(one)
            try:
                shapes = {name: text.rows(one, np, 1).shape[1:] for name, text in self._expressions.items()}
            except ConfigError as error:
                where = f"validation.observables.{manifest.dataset}"
                raise ConfigError(error.what, where=where, cure=error.cure) from error
        return {name: shape for name, shape in shapes.items() if shape}

    def known(self, sample: Sample) -> dict[str, np.ndarray]:
        """The staged columns, (N, *shape) each, and what the physics derives from them, (N,) each."""
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
