"""How a value stands to its truth-against-truth reference, in words; `DEFINITION` is what the page says about it."""

from typing import Literal

from kantor.results import Measurement

Level = Literal["good", "fair", "poor"]
Verdict = tuple[Level | None, str]

DEFINITION = (
    "“as truth”: p is at least 0.05; without a p-value, the value is at most two spreads above truth vs truth; for "
    "fractions, the intervals overlap. Otherwise the cell says how far off it is: distances as a multiple of "
    "truth against truth, amber below three times; the energy distance, which is quadratic in a shift, as a multiple "
    "of its truth-against-truth spread, amber below ten; the AUC amber below 0.6; fractions amber below one "
    "percentage point; modes amber where fewer than one is missed, their width amber within half of truth's; the "
    "azimuth by its p-value, amber down to 0.001."
)


def verdict(found: Measurement) -> Verdict:
    """The verdict on one measurement."""
    if found.value != found.value:
        return None, "not known"
    if found.statistic.startswith("azimuth"):
        return _azimuth(found.p_value)
    spread = (found.reference_high - found.reference_low) / 2
    if found.statistic == "mode_width":
        return _width(found, 2 * spread)
    if found.better == "reference":
        return _fraction(found)
    if found.better == "high":
        return _count(found, 2 * spread)
    beyond = found.value - found.reference > 2 * spread if found.p_value is None else found.p_value < 0.05
    if not beyond:
        return "good", "as truth"
    if found.statistic == "c2st_auc":
        return _area(found.value)
    if found.statistic == "energy_distance":
        return _multiple(found.value, spread, 10, "the spread of truth")
    return _multiple(found.value, found.reference, 3, "truth")


def _azimuth(p_value: float | None) -> Verdict:
    if p_value is None:
        return None, "not known"
    if p_value >= 0.05:
        return "good", "uniform"
    return ("fair", "barely uniform") if p_value >= 0.001 else ("poor", "not uniform")


def _fraction(found: Measurement) -> Verdict:
    if found.low <= found.reference_high and found.high >= found.reference_low:
        return "good", "as truth"
    word = "more" if found.value > found.reference else "fewer"
    return ("fair" if abs(found.value - found.reference) < 0.01 else "poor"), f"{word} than truth"


def _count(found: Measurement, tolerance: float) -> Verdict:
    missing = found.reference - found.value
    if missing <= tolerance:
        return "good", "as truth"
    return ("fair" if missing < 1 else "poor"), "fewer than truth"


def _width(found: Measurement, tolerance: float) -> Verdict:
    if abs(found.value - found.reference) <= tolerance:
        return "good", "as truth"
    ratio = found.value / found.reference
    return ("fair" if 0.5 < ratio < 1.5 else "poor"), "less than truth" if ratio < 1 else "more than truth"


def _area(value: float) -> Verdict:
    if value < 0.6:
        return "fair", "slightly told apart"
    return "poor", "told apart" if value < 0.8 else "easily told apart"


def _multiple(value: float, of: float, limit: float, what: str) -> Verdict:
    ratio = value / of if of > 0 else float("inf")
    shown = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return ("fair" if ratio < limit else "poor"), f"{shown} × {what}"
