"""What is known of a process, apart from any sample of it: observables, laws, planes, checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Columns = Mapping[str, np.ndarray]


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


@dataclass(frozen=True)
class Law:
    """What holds for every event of the process.

    name: in files. label: what a violation is called. broken: which rows break it, (N,) bool, from the staged columns
    and what `Physics.derive` adds to them. headline: whether the summary shows it.
    """

    name: str
    label: str
    broken: Callable[[Columns], np.ndarray]
    headline: bool = False


@dataclass(frozen=True)
class UniformAzimuth:
    """Check: a derived angle in (-pi, pi] that has no preferred direction."""

    observable: str


@dataclass(frozen=True)
class Modes:
    """Check: events are drawn from equally frequent Gaussians of one width.

    centres: (modes, D), in the order of the features. sigma: standard deviation along each feature.
    """

    centres: np.ndarray
    sigma: float


class Physics:
    """A process, as far as the comparison of samples knows it; this one knows nothing.

    features: columns it needs to be features, with the unit they must be in. labels: what axes call columns.
    observables: what is derived. expressions: of those that are expressions of the columns, by name. classified: which
    of these a classifier sees beside the columns. planes: pairs of observables worth a picture. checks: what else is
    compared, each of a type that the validation has a statistic for.
    """

    features: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    observables: Sequence[Observable] = ()
    expressions: Mapping[str, str] = {}
    classified: Sequence[str] = ()
    laws: Sequence[Law] = ()
    planes: Sequence[tuple[str, str]] = ()
    checks: Sequence[Any] = ()

    def derive(self, columns: Columns) -> dict[str, np.ndarray]:
        """The derived observables by name, (N,) each; they need not be finite."""
        return {}
