"""The statistics there are: which question each answers, how it is judged, and where a report shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kantor.results import Measurement
from kantor.validation import verdicts
from kantor.validation.verdicts import Verdict


@dataclass(frozen=True)
class Statistic:
    """What is true of a statistic whatever it is measured on.

    Args:
        name: in files, and the key of `STATISTICS`.
        section: where it stands: with joint statistics, in a table of its own with one line for each observable, or
            among the physics checks.
        judge: the verdict on a value that is known.
        headline: whether the summary shows it; a law says so for itself.
        short: what labels begin with, in a table of its own.
        title: heading of a table of its own.
        is_fraction: shown in per cent with its interval.
        note: what the reader of a table with it has to know.
        unseen: its value where it was not written, since what it counts has not happened.
    """

    name: str
    section: Literal["joint", "distance", "check"]
    judge: Callable[[Measurement], Verdict]
    headline: bool = False
    short: str = ""
    title: str = ""
    is_fraction: bool = False
    note: str = ""
    unseen: float | None = None

    def verdict(self, found: Measurement, effective_rows: float) -> Verdict:
        """How a measurement of it on so many effective rows stands to truth against truth."""
        if found.value != found.value:
            return None, "not known"
        return self.judge(found) if effective_rows >= verdicts.LEAST_POWER else (None, "too few events to tell")


_AZIMUTH = (
    "Azimuth: unpolarised beams have no preferred direction. R is the length of the mean direction (Rayleigh's test), "
    "χ²/ndf that of 36 even bins against a constant; p is that of uniformity."
)
_REDRAWN = (
    "Drawn again: generated events that failed a cut which defines the sample are replaced, so that none is left; a "
    "generator that needs it often has not learnt the edge."
)
STATISTICS = {
    each.name: each
    for each in (
        Statistic("energy_distance", "joint", verdicts.multiple_of_spread, headline=True),
        Statistic("c2st_auc", "joint", verdicts.told_apart, headline=True),
        Statistic("correlation", "joint", verdicts.multiple_of_truth, headline=True),
        Statistic("modes", "joint", verdicts.none_missed, headline=True),
        Statistic("high_quality", "joint", verdicts.same_fraction, headline=True, is_fraction=True),
        Statistic("reverse_kl", "joint", verdicts.multiple_of_truth, headline=True),
        Statistic("mode_width", "joint", verdicts.same_width, headline=True),
        Statistic("w1", "distance", verdicts.multiple_of_truth, short="W1", title="Wasserstein distance W1"),
        Statistic("ks", "distance", verdicts.multiple_of_truth, short="KS", title="Kolmogorov–Smirnov distance KS"),
        Statistic("law", "check", verdicts.same_fraction, is_fraction=True),
        Statistic("redrawn", "check", verdicts.rarely, is_fraction=True, note=_REDRAWN),
        Statistic("azimuth_direction", "check", verdicts.uniform, note=_AZIMUTH),
        Statistic("azimuth_chi2", "check", verdicts.uniform, headline=True, note=_AZIMUTH),
        Statistic("undefined", "check", verdicts.same_fraction, is_fraction=True, unseen=0.0),
    )
}
