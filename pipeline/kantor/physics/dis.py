"""Kinematics and physics laws of inclusive deep inelastic scattering, e p -> e' X.

Beams are head-on with the electron along +z; energies in GeV; the electron's mass is neglected, the proton's is not.
With beam momenta k and P, the scattered electron's k' and q = k - k':
    Q2 = -q^2,   x = Q2 / (2 P.q),   y = P.q / P.k,   W2 = (P + q)^2 = M^2 + 2 P.q - Q2
(Particle Data Group, Review of Particle Physics, chapter "Structure functions").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kantor.config import DisPhysics
from kantor.physics.base import Columns, Law, Observable, Physics, UniformAzimuth
from kantor.results import Column

PROTON_MASS = 0.93827208943  # GeV, CODATA 2022


@dataclass(frozen=True)
class Kinematics:
    """Scattered electrons, each quantity (N,) float64."""

    energy: np.ndarray  # E' [GeV]
    pt: np.ndarray  # transverse momentum [GeV]
    theta: np.ndarray  # polar angle to the electron beam [rad]
    phi: np.ndarray  # azimuth in (-pi, pi] [rad]
    q2: np.ndarray  # squared momentum transfer [GeV2]
    x: np.ndarray  # Bjorken x; of any sign or infinite where P.q is not physical
    y: np.ndarray  # inelasticity
    w2: np.ndarray  # squared mass of the hadronic final state [GeV2]


def kinematics(momenta: np.ndarray, physics: DisPhysics, proton_mass: float = PROTON_MASS) -> Kinematics:
    """Everything that follows from the momenta (px, py, pz) of scattered electrons.

    Args:
        momenta: (N, 3) [GeV].
        physics: the beams.
        proton_mass: [GeV].
    """
    px, py, pz = momenta.astype(np.float64).T
    beam, proton = physics.electron_energy, physics.proton_energy
    proton_momentum = np.sqrt(max(proton**2 - proton_mass**2, 0.0))
    pt = np.hypot(px, py)
    energy = np.hypot(pt, pz)
    # E' - pz loses its digits along the beam, where most electrons are.
    ahead = np.divide(pt**2, energy + pz, out=energy - pz, where=pz > 0)
    q2 = 2 * beam * ahead
    p_dot_q = proton * (beam - energy) + proton_momentum * (beam - pz)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = q2 / (2 * p_dot_q)
    return Kinematics(
        energy=energy,
        pt=pt,
        theta=np.arctan2(pt, pz),
        phi=np.arctan2(py, px),
        q2=q2,
        x=x,
        y=p_dot_q / (beam * (proton + proton_momentum)),
        w2=proton_mass**2 + 2 * p_dot_q - q2,
    )


class Dis(Physics):
    """Scattered electrons (px, py, pz) in GeV."""

    features: Mapping[str, str] = {"px": "GeV", "py": "GeV", "pz": "GeV"}
    labels: Mapping[str, str] = {"px": "p_x", "py": "p_y", "pz": "p_z"}
    observables = (
        Observable("energy", "E′", "GeV", "derived"),
        Observable("pt", "p_T", "GeV", "derived"),
        Observable("theta", "θ", "rad", "derived"),
        Observable("phi", "φ", "rad", "derived"),
        Observable("q2", "Q²", "GeV²", "derived", scale="log"),
        Observable("x", "x", "", "derived", scale="log"),
        Observable("y", "y", "", "derived"),
        Observable("w2", "W²", "GeV²", "derived"),
    )
    # Computed from float32 momenta of generated and true events alike, so that rounding tells nothing.
    classified = ("energy",)
    planes = (("x", "q2"),)
    # Unpolarised beams have no preferred direction.
    checks = (UniformAzimuth("phi"),)

    def __init__(self, settings: DisPhysics, constants: Mapping[str, float], columns: Sequence[Column] = ()) -> None:
        self._settings = settings
        self._proton_mass = constants.get("proton_mass", PROTON_MASS)
        beam, q2_min, least = settings.electron_energy, settings.q2_min, settings.scattered_energy_min
        self.laws = (
            Law(
                "pz_above_beam",
                f"p_z above the beam energy of {beam:g} GeV",
                lambda columns: columns["pz"].astype(np.float64) > beam,
            ),
            Law("q2_below_cut", f"Q² below its cut of {q2_min:g} GeV²", lambda columns: columns["q2"] < q2_min, True),
            Law("x_outside", "x outside (0, 1)", lambda columns: _outside_unit(columns["x"]), True),
            Law("y_outside", "y outside (0, 1)", lambda columns: _outside_unit(columns["y"])),
            Law(
                "energy_below_cut",
                f"E′ below its cut of {least:g} GeV",
                lambda columns: columns["energy"] < least,
            ),
        )

    def derive(self, columns: Columns) -> dict[str, np.ndarray]:
        momenta = np.stack([columns[name] for name in self.features], axis=1)
        return vars(kinematics(momenta, self._settings, self._proton_mass))


def _outside_unit(values: np.ndarray) -> np.ndarray:
    """Outside (0, 1), or not a number."""
    return ~((values > 0) & (values < 1))
