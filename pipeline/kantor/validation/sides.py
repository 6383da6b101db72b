"""The samples of a comparison, and how a statistic of them is written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kantor.data.samples import Sample
from kantor.results import Measurement
from kantor.validation.catalogue import STATISTICS
from kantor.validation.observables import Observables
from kantor.validation.statistics import Estimate, Weights, fraction


@dataclass(frozen=True)
class Side:
    """One of the samples, and its observables as they are compared (log10 of some), NaN where undefined.

    known: the staged columns and what the physics derives from them.
    """

    sample: Sample
    values: Mapping[str, np.ndarray]
    known: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, sample: Sample, observables: Observables) -> "Side":
        known = observables.known(sample)
        values = observables.values(sample, known)
        compared = {each.name: each.compared(values[each.name]) for each in observables.all}
        return cls(sample, compared, known)

    @property
    def weights(self) -> Weights:
        return self.sample.weights

    def finite(self, name: str) -> tuple[np.ndarray, Weights, np.ndarray]:
        """Values and weights of the rows where an observable is finite, and which rows these are."""
        rows = np.isfinite(self.values[name])
        return self.values[name][rows], None if self.weights is None else self.weights[rows], rows


@dataclass(frozen=True)
class Sides:
    """Generated against true rows, N each, with 2 N rows of truth whose random halves are the reference."""

    generated: Side
    truth: Side
    pool: Side

    def fraction(
        self, statistic: str, label: str, generated: np.ndarray, truth: np.ndarray, *, confidence: float, **more: Any
    ) -> Measurement:
        """Which part of the rows are such, (N,) bool of each sample."""
        return measurement(
            statistic,
            label,
            fraction(generated, self.generated.weights, confidence=confidence),
            fraction(truth, self.truth.weights, confidence=confidence),
            interval=f"{100 * confidence:g} %",
            **more,
        )


def measurement(statistic: str, label: str, found: Estimate, reference: Estimate, **more: Any) -> Measurement:
    """A statistic as it is written."""
    return Measurement(
        statistic=statistic,
        label=label,
        value=found.value,
        low=found.low,
        high=found.high,
        reference=reference.value,
        reference_low=reference.low,
        reference_high=reference.high,
        p_value=found.p_value,
        **{"headline": STATISTICS[statistic].headline, **more},
    )
