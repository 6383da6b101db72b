"""The quantities that are compared: the features, what the physics derives from them, and the user's expressions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kantor.data.manifest import Manifest
from kantor.data.samples import Sample
from kantor.errors import InputError
from kantor.expressions import Expression
from kantor.validation import dis

MOMENTA = ("px", "py", "pz")


@dataclass(frozen=True)
class Observable:
    """One quantity and how it is compared.

    label: what axes and tables call it; `_` begins a subscript. unit: empty where there is none. kind: a staged
    feature, or derived from them. scale: `log` quantities are compared as log10 and binned evenly in it.
    """

    name: str
    label: str
    unit: str
    kind: Literal["feature", "derived"]
    scale: Literal["linear", "log"] = "linear"

    @property
    def compared_label(self) -> str:
        return f"log₁₀ {self.label}" if self.scale == "log" else self.label

    @property
    def compared_unit(self) -> str:
        return "decades" if self.scale == "log" else self.unit

    def compared(self, values: np.ndarray) -> np.ndarray:
        """The values as they are compared, float64; NaN where the logarithm does not exist."""
        values = values.astype(np.float64)
        if self.scale == "linear":
            return values
        return np.log10(values, out=np.full(len(values), np.nan), where=values > 0)


_DIS = (
    Observable("energy", "E′", "GeV", "derived"),
    Observable("pt", "p_T", "GeV", "derived"),
    Observable("theta", "θ", "rad", "derived"),
    Observable("phi", "φ", "rad", "derived"),
    Observable("q2", "Q²", "GeV²", "derived", scale="log"),
    Observable("x", "x", "", "derived", scale="log"),
    Observable("y", "y", "", "derived"),
    Observable("w2", "W²", "GeV²", "derived"),
)


class Observables:
    """All observables of a dataset, and their values for any sample of it.

    Raises:
        InputError: the physics needs columns that the dataset does not have.
        ConfigError: an expression reads an unknown column.
    """

    def __init__(self, manifest: Manifest, expressions: Mapping[str, str], where: Path) -> None:
        self.physics = manifest.physics
        self.mixture = manifest.mixture
        self._proton_mass = manifest.constants.get("proton_mass", dis.PROTON_MASS)
        self._expressions = {name: Expression(text) for name, text in expressions.items()}
        missing = [name for name in MOMENTA if name not in manifest.feature_names]
        if self.physics is not None and missing:
            raise InputError(
                f"its physics is 'dis', but it has no feature '{missing[0]}'",
                where=where,
                cure="name the features px, py, pz [GeV], or leave out 'physics'",
            )
        features = [
            Observable(column.name, self._label(column.name), column.unit, "feature") for column in manifest.features
        ]
        derived = [] if self.physics is None else list(_DIS)
        own = [Observable(name, name, "", "derived") for name in self._expressions]
        # A user's expression replaces what has the same name.
        self.all = list({observable.name: observable for observable in [*features, *derived, *own]}.values())

    def values(self, sample: Sample) -> dict[str, np.ndarray]:
        """Each observable's name with its values (N,); they need not be finite."""
        columns = sample.columns()
        if self.physics is not None:
            columns |= vars(self.kinematics(sample))
        with np.errstate(all="ignore"):
            own = {name: np.broadcast_to(text(columns, np), sample.rows) for name, text in self._expressions.items()}
        columns |= own
        return {observable.name: columns[observable.name] for observable in self.all}

    def _label(self, name: str) -> str:
        return f"p_{name[1]}" if self.physics is not None and name in MOMENTA else name

    def kinematics(self, sample: Sample) -> dis.Kinematics:
        assert self.physics is not None
        return dis.kinematics(self.momenta(sample), self.physics, self._proton_mass)

    def momenta(self, sample: Sample) -> np.ndarray:
        columns = sample.columns()
        return np.stack([columns[name] for name in MOMENTA], axis=1)

    def classified(self, sample: Sample) -> np.ndarray:
        """What the classifier sees, (N, K) float64: features and conditions as staged; for DIS also E' from them.

        Generated and true rows have passed through float32 alike, and E' is computed from both in the same way, so
        that rounding tells nothing.
        """
        columns = joint(sample).astype(np.float64)
        if self.physics is None:
            return columns
        return np.column_stack([columns, self.kinematics(sample).energy])


def joint(sample: Sample) -> np.ndarray:
    """Features and conditions side by side, (N, D + C) float32."""
    return np.concatenate([sample.features, sample.conditions], axis=1)
