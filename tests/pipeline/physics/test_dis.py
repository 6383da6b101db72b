"""Kinematics of deep inelastic scattering: four-vectors by hand, and numbers of real events."""

import numpy as np
import pytest

from kantor.config import DisPhysics
from kantor.physics.dis import PROTON_MASS, Dis, kinematics

PHYSICS = DisPhysics(electron_energy=27.5, proton_energy=920.0, q2_min=2.0, scattered_energy_min=5.0)


def minkowski(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[0] - a[1:] @ b[1:])


def test_invariants_are_those_of_the_four_vectors() -> None:
    rng = np.random.default_rng(1)
    momenta = rng.normal([0, 0, 5], [3, 3, 10], (50, 3))
    found = kinematics(momenta, PHYSICS)
    beam = np.array([27.5, 0, 0, 27.5])
    proton = np.array([920.0, 0, 0, -np.sqrt(920.0**2 - PROTON_MASS**2)])
    for i, momentum in enumerate(momenta):
        scattered = np.array([np.linalg.norm(momentum), *momentum])
        q = beam - scattered
        assert found.q2[i] == pytest.approx(-minkowski(q, q))
        assert found.x[i] == pytest.approx(-minkowski(q, q) / (2 * minkowski(proton, q)))
        assert found.y[i] == pytest.approx(minkowski(proton, q) / minkowski(proton, beam))
        assert found.w2[i] == pytest.approx(minkowski(proton + q, proton + q), rel=1e-9)
        assert found.pt[i] == pytest.approx(np.hypot(*momentum[:2]))
        assert np.cos(found.theta[i]) == pytest.approx(momentum[2] / scattered[0])
        assert found.phi[i] == pytest.approx(np.arctan2(momentum[1], momentum[0]))


def test_x_and_q2_that_went_in_come_out() -> None:
    """Where the proton's mass is small, Q2 = 2 E (E' - pz) and y = 1 - (E' + pz) / 2E fix the electron."""
    x, q2, beam, proton = 0.01, 10.0, 27.5, 920.0
    y = q2 / (4 * beam * proton * x)
    minus, plus = q2 / (2 * beam), 2 * beam * (1 - y)
    energy, pz = (plus + minus) / 2, (plus - minus) / 2
    momenta = np.array([[np.sqrt(energy**2 - pz**2), 0.0, pz]])
    found = kinematics(momenta, PHYSICS, proton_mass=0.0)
    assert (found.x[0], found.q2[0], found.y[0]) == pytest.approx((x, q2, y))


def test_elastic_scattering_has_x_one_and_the_protons_mass() -> None:
    beam, proton, mass = 50.0, 50.0, PROTON_MASS
    momentum, theta = np.sqrt(proton**2 - mass**2), 0.3
    # 2 P.q = Q2 solved for E'.
    energy = beam * (proton + momentum) / (proton + momentum * np.cos(theta) + beam * (1 - np.cos(theta)))
    momenta = energy * np.array([[np.sin(theta), 0, np.cos(theta)]])
    found = kinematics(momenta, DisPhysics())
    assert found.x[0] == pytest.approx(1)
    assert found.w2[0] == pytest.approx(mass**2, rel=1e-6)


def test_float32_costs_no_digits_along_the_beam() -> None:
    momenta = np.array([[1.0, 1.0, 49.9]], dtype=np.float32)
    exact = 100 * (np.sqrt(2 + np.float64(momenta[0, 2]) ** 2) - np.float64(momenta[0, 2]))
    assert kinematics(momenta, DisPhysics()).q2[0] == pytest.approx(exact, rel=1e-12)


def violations(momenta: np.ndarray) -> dict[str, np.ndarray]:
    physics = Dis(DisPhysics(), {})
    columns = dict(zip(physics.features, momenta.T, strict=True))
    known = columns | physics.derive(columns)
    return {law.name: law.broken(known) for law in physics.laws}


def test_each_law_is_broken_by_its_own_row() -> None:
    momenta = np.array(
        [
            [1.5, 1.0, 48.0],  # breaks none
            [1.0, 0.0, 50.5],  # ahead of the beam
            [0.5, 0.5, 45.0],  # too close to the beam
            [1.5, 0.0, 49.99],  # more energy than the beam: P.q < 0
            [2.0, 2.0, 3.0],  # too slow
        ]
    )
    broken = violations(momenta)
    assert len(broken) == 5
    assert broken["pz_above_beam"].tolist() == [False, True, False, False, False]
    assert broken["q2_below_cut"].tolist() == [False, True, True, False, False]
    assert broken["energy_below_cut"].tolist() == [False, False, False, False, True]
    assert broken["x_outside"].tolist() == [False, True, False, True, False]
    assert broken["y_outside"].tolist() == [False, True, False, True, False]


def test_real_events_break_no_law(dis_momenta: np.ndarray) -> None:
    physics = DisPhysics()
    found = kinematics(dis_momenta, physics)
    broken = violations(dis_momenta)
    assert {name: int(rows.sum()) for name, rows in broken.items()} == dict.fromkeys(broken, 0)
    assert len(broken) == 5
    # Figures of 100,000 PYTHIA events with these beams and cuts.
    assert np.median(found.q2) == pytest.approx(3.99, rel=0.05)
    assert np.median(found.x) == pytest.approx(0.0213, rel=0.2)
    assert np.median(found.energy) == pytest.approx(48.83, rel=0.01)
