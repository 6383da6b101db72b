"""Kinematics and physics laws of inclusive deep inelastic scattering, e p -> e' X.

Beams are head-on with the electron along +z; energies in GeV; the electron's mass is neglected, the proton's is not.
With beam momenta k and P, the scattered electron's k' and q = k - k':
    Q2 = -q^2,   x = Q2 / (2 P.q),   y = P.q / P.k,   W2 = (P + q)^2 = M^2 + 2 P.q - Q2
(Particle Data Group, Review of Particle Physics, chapter "Structure functions").
"""

from dataclasses import dataclass

import numpy as np

from kantor.config import DisPhysics

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


def violations(momenta: np.ndarray, found: Kinematics, physics: DisPhysics) -> dict[str, np.ndarray]:
    """Which rows break a law that holds for every event of this kind, by the name of the law; each (N,) bool."""
    return {
        "pz_above_beam": momenta[:, 2].astype(np.float64) > physics.electron_energy,
        "q2_below_cut": found.q2 < physics.q2_min,
        "x_outside": ~((found.x > 0) & (found.x < 1)),
        "y_outside": ~((found.y > 0) & (found.y < 1)),
        "energy_below_cut": found.energy < physics.scattered_energy_min,
    }


def law_labels(physics: DisPhysics) -> dict[str, str]:
    """What each name in `violations` means."""
    return {
        "pz_above_beam": f"p_z above the beam energy of {physics.electron_energy:g} GeV",
        "q2_below_cut": f"Q² below its cut of {physics.q2_min:g} GeV²",
        "x_outside": "x outside (0, 1)",
        "y_outside": "y outside (0, 1)",
        "energy_below_cut": f"E′ below its cut of {physics.scattered_energy_min:g} GeV",
    }
