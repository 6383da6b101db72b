"""The data tables of Geant4 that are made here, against published values."""

from pathlib import Path

import numpy as np
import pytest

from kantor.data.geant4 import tables
from kantor.errors import InputError

AVOGADRO = 6.02214076e23
# Atomic number: molar mass [g], radiation length [g / cm2] of the Particle Data Group.
PDG = {14: (28.085, 21.82), 18: (39.948, 19.55), 26: (55.845, 13.84), 74: (183.84, 6.76), 82: (207.2, 6.37)}


@pytest.mark.parametrize("z", PDG)
def test_radiation_lengths(z: int) -> None:
    """1 / X0 = N_A / A integral k dsigma/dk dk / E, where screening is complete."""
    mass, length = PDG[z]
    fraction_K, kinetic = np.linspace(1e-4, 1 - 1e-4, 2000), 1e4
    cross_K = z**2 * tables.bremsstrahlung(z, kinetic, fraction_K) * 1e-27
    found = mass / AVOGADRO / np.trapezoid(cross_K, fraction_K)
    # Tsai's own definition leaves out the end of the spectrum, where screening is not complete: 1 to 2 %.
    assert found == pytest.approx(length, rel=0.025)


def test_spectra_are_positive() -> None:
    for z in (1, 82):
        for kinetic in (1e-3, 0.1, 2.0, 2.1, 1e3):
            assert np.all(tables.bremsstrahlung(z, kinetic, np.linspace(0, 1, 101)) > 0)


def read_vector(path: Path) -> np.ndarray:
    """(n, 2), energies and values, of a file of a G4PhysicsVector."""
    lines = path.read_text().splitlines()
    assert int(lines[1]) == len(lines) - 2
    return np.array([line.split() for line in lines[2:]], dtype=float)


# NIST's XCOM: photoelectric absorption [cm2 / g] at energies [MeV].
XCOM = {82: {0.1: 5.23, 1.0: 0.0181}}


@pytest.mark.parametrize("z, energy", [(z, energy) for z, values in XCOM.items() for energy in values])
def test_photoelectric_absorption(z: int, energy: float) -> None:
    table = read_vector(tables.made_tables() / f"epics2017/phot/pe-cs-{z}.dat")
    barn = np.interp(energy, table[:, 0], table[:, 1]) / energy**3
    assert barn * 1e-24 * AVOGADRO / PDG[z][0] == pytest.approx(XCOM[z][energy], rel=0.03)


def test_every_element_has_tables() -> None:
    made = tables.made_tables()
    assert tables.missing_elements({"G4LEDATA": str(made)}, tables.ELEMENTS) == []
    assert tables.missing_elements({"G4LEDATA": str(made)}, [1, 93]) == [93]
    assert sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) < 6e6


def test_the_user_s_own_tables_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "G4EMLOW8.8"
    own.mkdir()
    monkeypatch.setenv("G4LEDATA", str(own))
    variables = tables.environment()
    assert variables["G4LEDATA"] == str(own)
    assert tables.describe(variables) == "G4LEDATA: G4EMLOW8.8"
    monkeypatch.setenv("G4LEDATA", str(tmp_path / "no"))
    with pytest.raises(InputError, match="names no directory"):
        tables.environment()
