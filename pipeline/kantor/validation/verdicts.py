"""How a value stands to its truth-against-truth reference, in words; `DEFINITION` is what the page says about it."""

from typing import Literal

from kantor.results import Measurement

Level = Literal["good", "fair", "poor"]
Verdict = tuple[Level | None, str]

LEAST_POWER = 100
"""Effective rows below which almost anything would be as truth, so that there are no verdicts."""

DEFINITION = (
    "“as truth”: p is at least 0.05; without a p-value, the value is at most two spreads above truth vs truth; for "
    "fractions, the intervals overlap. Otherwise the cell says how far off it is: distances as a multiple of "
    "truth against truth, amber below three times; the energy distance, which is quadratic in a shift, as a multiple "
    "of its truth-against-truth spread, amber below ten; the AUC amber below 0.6; fractions amber below one "
    "percentage point; modes amber where fewer than one is missed, their width amber within half of truth's; the "
    "azimuth by its p-value, amber down to 0.001; events drawn again are few up to 0.5 %, amber up to 5 %. "
    "Below 100 effective events there are no verdicts."
)


def multiple_of_truth(found: Measurement) -> Verdict:
    """For distances that are proportional to a shift."""
    return _AS_TRUTH if _agrees(found) else _multiple(found.value, found.reference, 3, "truth")


def multiple_of_spread(found: Measurement) -> Verdict:
    """For unbiased distances, whose reference is zero."""
    return _AS_TRUTH if _agrees(found) else _multiple(found.value, _spread(found), 10, "the spread of truth")


def told_apart(found: Measurement) -> Verdict:
    """For areas under a classifier's ROC curve."""
    if _agrees(found):
        return _AS_TRUTH
    if found.value < 0.6:
        return "fair", "slightly told apart"
    return "poor", "told apart" if found.value < 0.8 else "easily told apart"


def uniform(found: Measurement) -> Verdict:
    """For tests of an angle's uniformity."""
    if found.p_value is None:
        return None, "not known"
    if found.p_value >= 0.05:
        return "good", "uniform"
    return ("fair", "barely uniform") if found.p_value >= 0.001 else ("poor", "not uniform")


def same_fraction(found: Measurement) -> Verdict:
    """For fractions with intervals."""
    if found.low <= found.reference_high and found.high >= found.reference_low:
        return _AS_TRUTH
    word = "more" if found.value > found.reference else "fewer"
    return ("fair" if abs(found.value - found.reference) < 0.01 else "poor"), f"{word} than truth"


def rarely(found: Measurement) -> Verdict:
    """For fractions that truth has not, of what is mended."""
    if found.value <= 0.005:
        return "good", "few"
    return ("fair", "some") if found.value <= 0.05 else ("poor", "many")


def none_missed(found: Measurement) -> Verdict:
    """For counts of which truth has the most there can be."""
    missing = found.reference - found.value
    if missing <= 2 * _spread(found):
        return _AS_TRUTH
    return ("fair" if missing < 1 else "poor"), "fewer than truth"


def same_width(found: Measurement) -> Verdict:
    """For widths, which can be too small and too large."""
    if abs(found.value - found.reference) <= 2 * _spread(found):
        return _AS_TRUTH
    ratio = found.value / found.reference
    return ("fair" if 0.5 < ratio < 1.5 else "poor"), "less than truth" if ratio < 1 else "more than truth"


_AS_TRUTH: Verdict = ("good", "as truth")


def _agrees(found: Measurement) -> bool:
    """By its p-value, or else whether it is at most two spreads above truth against truth."""
    if found.p_value is not None:
        return found.p_value >= 0.05
    return found.value - found.reference <= 2 * _spread(found)


def _spread(found: Measurement) -> float:
    return (found.reference_high - found.reference_low) / 2


def _multiple(value: float, of: float, limit: float, what: str) -> Verdict:
    ratio = value / of if of > 0 else float("inf")
    shown = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return ("fair" if ratio < limit else "poor"), f"{shown} × {what}"
