"""Muon identification of a toy of four stations behind absorbers, on PYTHIA's kinematics.

A muon that is fast enough leaves a hit in each station, near where its track points to; random hits lie evenly, the
denser the more tracks there are and the nearer the beam. Pions and kaons may decay before the absorbers, after which a
muon goes on, off the track. IsMuon asks for hits within a field of interest, as LHCb does (arXiv:1306.0249, table 1):

    3 to 6 GeV: M2 and M3;    6 to 10 GeV: M2, M3, and M4 or M5;    above: all four.

Where it holds, MuonDLL is the log likelihood of the distances r_i with a muon's hit among them, less that without,

    sum over stations of log(1 - e + e sum_i g(r_i) / b),

of the efficiency e, the Gaussian g and the density b of random hits; elsewhere it is 0, as IsMuon is. It is a toy: one
coordinate, no punch-through. Shapes: N tracks, H hits.
"""

from collections.abc import Sequence

import numpy as np

from kantor.config import SPECIES
from kantor.data.sources.tracks import MASSES, DetectedTracks, Tracks

_REACHED = (3.0, 4.0, 5.0, 6.0)  # momentum a muon needs to come to M2, M3, M4, M5 [GeV]
_PITCH = (1.0, 1.3, 2.0, 2.6)  # resolution [cm]
_ACCEPTANCE = (0.020, 0.270)  # polar angles [rad]
_EFFICIENCY = 0.98
_SCATTERING = 20.0  # distance of a hit from the track by multiple scattering, times momentum [cm GeV]
_FIELD = 3.5  # half width of the field of interest in resolutions
_RANDOM = 0.015  # random hits per cm and 100 tracks, at the polar angle of
_REFERENCE = 0.1  # [rad]
_LEAST_RANDOM = 1e-4  # per cm, in the likelihood
_FLIGHT = 12.0  # length before the absorbers [m]
# c tau [m], fraction that decays to muons, and distance of the muon from the track times momentum [cm GeV].
_DECAYS = {"pion": (7.8045, 1.0, 18.0), "kaon": (3.711, 0.6356, 140.0)}


class MuonTracks(DetectedTracks):
    """MuonDLL and IsMuon (0 or 1) given p [GeV], eta, nTracks, charge, species."""

    detector = "muon system"
    names: Sequence[str] = ("MuonDLL", "IsMuon")

    def respond(self, tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
        is_muon_N, kink_N = _penetrating(tracks, rng)
        inside_N = (tracks.theta > _ACCEPTANCE[0]) & (tracks.theta < _ACCEPTANCE[1])
        density_N = _RANDOM * tracks.n_tracks / 100 * _REFERENCE / tracks.theta * inside_N
        hit_4N = np.empty((4, len(tracks.p)), bool)
        likelihood_N = np.zeros(len(tracks.p))
        for station, (least, pitch) in enumerate(zip(_REACHED, _PITCH, strict=True)):
            width_N = np.hypot(pitch, _SCATTERING / tracks.p)
            present_N = is_muon_N & inside_N & (tracks.p > least) & (rng.random(len(tracks.p)) < _EFFICIENCY)
            distance_N = rng.normal(0, np.hypot(width_N, kink_N / tracks.p))
            field_N = _FIELD * width_N
            random_H = np.repeat(np.arange(len(tracks.p)), rng.poisson(2 * field_N * density_N))
            own_H = np.flatnonzero(present_N & (abs(distance_N) < field_N))
            track_H = np.concatenate([own_H, random_H])
            at_H = np.concatenate([distance_N[own_H], field_N[random_H] * rng.uniform(-1, 1, len(random_H))])
            gauss_H = np.exp(-((at_H / width_N[track_H]) ** 2) / 2) / (np.sqrt(2 * np.pi) * width_N[track_H])
            near_N = np.bincount(track_H, gauss_H, len(tracks.p)) / np.maximum(density_N, _LEAST_RANDOM)
            likelihood_N += np.where(tracks.p > least, np.log(1 - _EFFICIENCY + _EFFICIENCY * near_N), 0)
            hit_4N[station] = np.bincount(track_H, minlength=len(tracks.p)) > 0
        passes_N = _passes(tracks.p, hit_4N)
        return np.stack([np.where(passes_N, likelihood_N, 0), passes_N], axis=1)


def _penetrating(tracks: Tracks, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which tracks are muons behind the absorbers, (N,) bool, and how far off the track, times momentum [cm GeV]."""
    is_muon_N, kink_N = tracks.species == SPECIES.index("muon"), np.zeros(len(tracks.p))
    level_N = rng.random(len(tracks.p))
    for name, (lifetime, fraction, kink) in _DECAYS.items():
        species = SPECIES.index(name)
        decays_N = 1 - np.exp(-_FLIGHT * MASSES[species] / (tracks.p * lifetime))
        decayed_N = (tracks.species == species) & (level_N < fraction * decays_N)
        is_muon_N, kink_N = is_muon_N | decayed_N, np.where(decayed_N, kink, kink_N)
    return is_muon_N, kink_N


def _passes(p_N: np.ndarray, hit_4N: np.ndarray) -> np.ndarray:
    """IsMuon, (N,) bool."""
    m2_N, m3_N, m4_N, m5_N = hit_4N
    behind_N = np.select([p_N > 10, p_N > 6], [m4_N & m5_N, m4_N | m5_N], True)
    return (p_N > 3) & m2_N & m3_N & behind_N
