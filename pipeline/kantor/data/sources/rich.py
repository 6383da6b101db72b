"""Likelihoods of a toy of two Cherenkov detectors, on PYTHIA's kinematics.

Photons of a track lie around the angle theta_c with cos theta_c = 1 / (n beta), Gaussian, as many as a Poisson number
with mean N sin^2 theta_c / sin^2 theta_max; background photons lie evenly in the plane, so that dN/dtheta ~ theta, as
many as there are other tracks. A hypothesis h has the extended likelihood of the angles t_i of all photons,

    log L_h = sum_i log(s_h(t_i) + b(t_i)) - integral s_h,

as of LHCb's RICH (arXiv:1211.6759), there of pixels and of all tracks at once. The hypothesis `bt`, below
threshold, has no signal: s = 0. DLLx = log L_x - log L_pion. Gas radiators as C4F10 and CF4, numbers near those of
LHCb's, with fewer photons and a worse resolution. It is a toy: no rings overlap, no mirror is tilted.

Known of it: DLLp = DLLbt exactly where no proton emits light, DLLk = DLLp where no kaon does, and all are 0 outside the
acceptance. Shapes: N tracks, P photons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kantor.config import RichPhysics
from kantor.data.sources.tracks import MASSES, DetectedTracks, Tracks


@dataclass(frozen=True)
class Radiator:
    """A gas and what sees its photons."""

    index: float  # refractive index
    photons: float  # detected, of a particle at the speed of light
    resolution: float  # of a photon's angle, without multiple scattering [rad]
    acceptance: tuple[float, float]  # polar angles of tracks [rad]
    background: float  # photons of 100 other tracks
    largest: float  # angle that is looked at [rad]

    def angle(self, p_N: np.ndarray, mass: float) -> np.ndarray:
        """Cherenkov angle [rad], 0 below threshold, (N,)."""
        cosine_N = np.hypot(1, mass / p_N) / self.index
        return np.arccos(np.minimum(cosine_N, 1))

    def expected(self, angle_N: np.ndarray) -> np.ndarray:
        """Expected number of photons, (N,)."""
        return self.photons * np.sin(angle_N) ** 2 / (1 - 1 / self.index**2)


RADIATORS = (
    Radiator(1.0014, 12.24, 2.59e-3, (0.025, 0.300), 45.0, 0.060),
    Radiator(1.0005, 9.48, 1.09e-3, (0.015, 0.120), 30.0, 0.036),
)
_SCATTERING = 6.0  # momentum at which multiple scattering is as large as the resolution [GeV]
_LEAST_BACKGROUND = 1e-3  # photons, in the likelihood
_PION, _BELOW = 0, len(MASSES)
_HYPOTHESES = {"DLLe": 3, "DLLmu": 4, "DLLk": 1, "DLLp": 2, "DLLbt": _BELOW}


class RichTracks(DetectedTracks):
    """DLLe, DLLmu, DLLk, DLLp, DLLbt given p [GeV], eta, nTracks, charge, species."""

    detector = "RICH"
    names: Sequence[str] = tuple(_HYPOTHESES)

    @property
    def physics(self) -> RichPhysics:
        return RichPhysics(
            kind="rich",
            refractive_index=max(radiator.index for radiator in RADIATORS),
            photons=sum(radiator.photons for radiator in RADIATORS),
        )

    def respond(self, tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
        likelihood_NH = np.sum([_log_likelihoods(radiator, tracks, rng) for radiator in RADIATORS], axis=0)
        return (likelihood_NH - likelihood_NH[:, [_PION]])[:, list(_HYPOTHESES.values())]


def _log_likelihoods(radiator: Radiator, tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
    """log L of each hypothesis, the species and then none, (N, 6)."""
    rows = len(tracks.p)
    theta_N = tracks.theta
    inside_N = (theta_N > radiator.acceptance[0]) & (theta_N < radiator.acceptance[1])
    angle_NS = np.stack([radiator.angle(tracks.p, mass) for mass in MASSES], axis=1)
    expected_NS = radiator.expected(angle_NS) * inside_N[:, None]
    width_N = radiator.resolution * np.hypot(1, _SCATTERING / tracks.p)
    background_N = radiator.background * tracks.n_tracks / 100 * inside_N

    own = (np.arange(rows), tracks.species)
    signal_P = np.repeat(np.arange(rows), rng.poisson(expected_NS[own]))
    other_P = np.repeat(np.arange(rows), rng.poisson(background_N))
    angles_P = np.concatenate(
        [
            rng.normal(angle_NS[own][signal_P], width_N[signal_P]),
            radiator.largest * np.sqrt(rng.random(len(other_P))),
        ]
    )
    track_P = np.concatenate([signal_P, other_P])
    seen_P = (angles_P > 0) & (angles_P < radiator.largest)
    track_P, angles_P = track_P[seen_P], angles_P[seen_P]

    even_P = np.maximum(background_N, _LEAST_BACKGROUND)[track_P] * 2 * angles_P / radiator.largest**2
    found_NH = np.empty((rows, len(MASSES) + 1))
    for species, (angle_N, expected_N) in enumerate(zip(angle_NS.T, expected_NS.T, strict=True)):
        pull_P = (angles_P - angle_N[track_P]) / width_N[track_P]
        ring_P = (expected_N / (np.sqrt(2 * np.pi) * width_N))[track_P] * np.exp(-(pull_P**2) / 2)
        found_NH[:, species] = np.bincount(track_P, np.log(ring_P + even_P), rows) - expected_N
    found_NH[:, _BELOW] = np.bincount(track_P, np.log(even_P), rows)
    return found_NH
