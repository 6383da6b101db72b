"""What is measured for each type of check that a physics may name."""

from collections.abc import Callable
from typing import Any

from kantor.physics import Modes, UniformAzimuth
from kantor.results import Measurement
from kantor.validation import modes
from kantor.validation.sides import Sides, measurement
from kantor.validation.statistics import rayleigh, uniformity


def check(what: Any, sides: Sides, confidence: float) -> list[Measurement]:
    """The statistics of one check.

    Args:
        what: the check, of a type in `physics.base`.
        confidence: level of the intervals of fractions.
    """
    return _CHECKS[type(what)](what, sides, confidence)


def _uniform_azimuth(what: UniformAzimuth, sides: Sides, confidence: float) -> list[Measurement]:
    x, y = (side.known[what.observable] for side in (sides.generated, sides.truth))
    u, v = sides.generated.weights, sides.truth.weights
    return [
        measurement("azimuth_direction", "azimuth: mean direction R", rayleigh(x, u), rayleigh(y, v)),
        measurement("azimuth_chi2", "azimuth: χ²/ndf to uniform", uniformity(x, u), uniformity(y, v)),
    ]


_CHECKS: dict[type, Callable[[Any, Sides, float], list[Measurement]]] = {
    UniformAzimuth: _uniform_azimuth,
    Modes: modes.measure,
}
