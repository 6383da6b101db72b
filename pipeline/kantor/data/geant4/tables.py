"""The data tables of Geant4's electromagnetic physics, written here instead of downloaded.

G4EmStandardPhysics_option1 opens two kinds of files below G4LEDATA: the spectrum of bremsstrahlung at each energy
(`brem_SB`, used below 1 GeV; above it Geant4 has a formula of its own) and the photoelectric cross sections
(`epics2017/phot`, `livermore/phot_epics2014` in other releases). Compton scattering, pairs, ionisation, multiple
scattering and annihilation are formulas in its code. Here

- bremsstrahlung is the Bethe-Heitler cross section with Thomas-Fermi screening and Coulomb correction (Tsai, Rev. Mod.
  Phys. 46 (1974) 815, equations 3.9 and 3.38 to 3.41) for all energies, which below some 10 MeV stops electrons a few
  to 10 % less than the tables of Seltzer and Berger do;
- photoelectric absorption is that of xraylib up to 0.8 MeV, and above it a1 / E + a2 / E^2 + a3 / E^3, fitted from
  0.2 MeV on.

The radiation lengths that follow are 1 % below those of the Particle Data Group. Showers made with them are real Geant4
on approximate tables: good for fast simulation, no reference to calibrate with. Where G4LEDATA is set, the user's own
tables are used. Energies in MeV, cross sections in millibarn (bremsstrahlung) and barn (photoelectric).
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np

from kantor.errors import InputError
from kantor.machine.cache import cached_directory
from kantor.machine.packages import optional

ELEMENTS = range(1, 93)
EXTRA = "geant4"
_PURPOSE = "simulating showers with Geant4"

# Geant4 looks for all of its data sets when geant4-pybind is imported, and reads the first two of these.
_DATA = "G4LEDATA"
_OTHERS = (
    "G4ENSDFSTATEDATA G4NEUTRONHPDATA G4LEVELGAMMADATA G4RADIOACTIVEDATA G4PARTICLEXSDATA G4PIIDATA "
    "G4REALSURFACEDATA G4SAIDXSDATA G4ABLADATA G4INCLDATA G4CHANNELINGDATA"
).split()
_BREMSSTRAHLUNG = "brem_SB"
_PHOTOELECTRIC = ("epics2017/phot", "livermore/phot_epics2014")
_EMPTY = "empty"  # directory for the data sets of which nothing is read

_ELECTRON_MASS = 0.51099895  # [MeV]
_ALPHA = 1 / 137.035999
_RADIUS_SQUARED = 79.40787  # of the electron [mb]
_KEV = 1e-3  # [MeV]


def environment() -> dict[str, str]:
    """The variables with which Geant4 starts; the user's own have precedence.

    Raises:
        InputError: xraylib is not installed, G4LEDATA is no directory, or the cache cannot be written.
    """
    variables = dict(os.environ)
    # With CI=true geant4-pybind downloads what it misses and asks nobody.
    variables.pop("CI", None)
    given = variables.get(_DATA)
    if given is not None and not Path(given).is_dir():
        raise InputError(
            f"{_DATA} names no directory", where=given, cure=f"name that of G4EMLOW, or unset {_DATA}: tables are made"
        )
    if given is None or any(name not in variables for name in _OTHERS):
        made = made_tables()
        variables.setdefault(_DATA, str(made))
        for name in _OTHERS:
            variables.setdefault(name, str(made / _EMPTY))
    return variables


def missing_elements(variables: Mapping[str, str], elements: Sequence[int]) -> list[int]:
    """Those of these atomic numbers for which G4LEDATA has no tables."""
    data = Path(variables[_DATA])
    return [z for z in elements if not all(path.is_file() for path in (_brems(data, z), _photo(data, z, "cs")))]


def made_tables() -> Path:
    """The directory of tables for all elements, made when it is asked for first."""
    xraylib = optional("xraylib", EXTRA, _PURPOSE)
    # Other code makes other tables.
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return cached_directory(f"geant4-tables-{code}", lambda directory: _write_all(directory, xraylib))


def describe(variables: Mapping[str, str]) -> str:
    """Which tables these are, for the manifest: no path, so that equal data have equal manifests."""
    if Path(variables[_DATA]).name.startswith("geant4-tables-"):
        return "analytic tables of Kantor"
    return f"{_DATA}: {Path(variables[_DATA]).resolve().name}"


def _brems(data: Path, z: int) -> Path:
    return data / _BREMSSTRAHLUNG / f"br{z}"


def _photo(data: Path, z: int, what: str, folder: str = _PHOTOELECTRIC[0]) -> Path:
    return data / folder / f"pe-{what}-{z}.dat"


def _write_all(data: Path, xraylib: ModuleType) -> None:
    for folder in (_BREMSSTRAHLUNG, *_PHOTOELECTRIC, _EMPTY):
        (data / folder).mkdir(parents=True)
    # The levels of nuclei; Geant4 opens it and needs none.
    (data / _EMPTY / "ENSDFSTATE.dat").touch()
    for z in ELEMENTS:
        _write_bremsstrahlung(_brems(data, z), z)
        for folder in _PHOTOELECTRIC:
            _write_photoelectric(data, folder, z, xraylib)


# ------------------------------------------------------------------------------------------------------ bremsstrahlung


def bremsstrahlung(z: int, kinetic: float, fraction_K: np.ndarray) -> np.ndarray:
    """(beta / Z)^2 k dsigma/dk [mb] of electrons at photon energies k = fraction * kinetic energy, (K,).

    What Seltzer and Berger tabulate, from Tsai's equations 3.9 and 3.38 to 3.41.
    """
    energy = kinetic + _ELECTRON_MASS
    photon_K = np.clip(fraction_K, 1e-12, 1 - 1e-9) * kinetic
    y_K = photon_K / energy
    screening_K = 100 * _ELECTRON_MASS * photon_K / (energy * (energy - photon_K))
    gamma_K, epsilon_K = screening_K * z ** (-1 / 3), screening_K * z ** (-2 / 3)
    phi_K = (
        16.863 - 2 * np.log(1 + (0.55846 * gamma_K) ** 2) + 2.4 * np.exp(-0.9 * gamma_K) + 1.6 * np.exp(-1.5 * gamma_K)
    )
    phi_difference_K = 2 / (3 + 19.5 * gamma_K + 18 * gamma_K**2)
    psi_K = (
        24.34
        - 2 * np.log(1 + (3.62106 * epsilon_K) ** 2)
        + 2.8 * np.exp(-8 * epsilon_K)
        + 1.2 * np.exp(-29.2 * epsilon_K)
    )
    psi_difference_K = 2 / (3 + 120 * epsilon_K + 1200 * epsilon_K**2)
    coulomb = _coulomb_correction(z) if kinetic > 2 else 0.0
    log_z = np.log(z)
    complete_K = z**2 * (phi_K - 4 / 3 * log_z - 4 * coulomb) + z * (psi_K - 8 / 3 * log_z)
    difference_K = z**2 * phi_difference_K + z * psi_difference_K
    unit = _ALPHA * _RADIUS_SQUARED
    cross_K = unit * ((4 / 3 * (1 - y_K) + y_K**2) * np.maximum(complete_K, 0) + 2 / 3 * (1 - y_K) * difference_K)
    scaled_K = cross_K * kinetic * (kinetic + 2 * _ELECTRON_MASS) / energy**2 / z**2
    # Below 2 MeV the formula reaches 0 at the end of the spectrum, where the cross section does not.
    floor_K = unit * 16 / 3 * (1 - 0.5 * fraction_K) * (1 + 0.35 * np.log10(1 + kinetic / 0.05))
    return np.maximum(scaled_K, 0.6 * floor_K if kinetic < 2 else 1e-6)


def _coulomb_correction(z: int) -> float:
    """Of Davies, Bethe and Maximon; Tsai's equation 3.3."""
    a2 = (_ALPHA * z) ** 2
    return a2 * (1 / (1 + a2) + 0.20206 - 0.0369 * a2 + 0.0083 * a2**2 - 0.002 * a2**3)


_FRACTIONS = np.concatenate(
    [
        [0, 0.01, 0.02, 0.03, 0.05, 0.075],
        np.linspace(0.1, 0.85, 16),
        [0.9, 0.925, 0.95, 0.97, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1],
    ]
)
_KINETIC = np.logspace(-3, 4, 57)  # [MeV]


def _write_bremsstrahlung(path: Path, z: int) -> None:
    """As G4Physics2DVector reads it: sizes, fractions, logarithms of energies, a row for each energy."""
    rows = [_FRACTIONS, np.log(_KINETIC), *(bremsstrahlung(z, kinetic, _FRACTIONS) for kinetic in _KINETIC)]
    lines = [f"5 {len(_FRACTIONS)} {len(_KINETIC)}", *(" ".join(f"{value:.8g}" for value in row) for row in rows)]
    path.write_text("\n".join([*lines, ""]))


# ------------------------------------------------------------------------------------------------------- photoelectric

_TABULATED = 0.8  # [MeV]: up to here by xraylib
_FITTED = np.geomspace(0.2, _TABULATED, 25)
_LEAST = 1.5e-4  # [MeV]
_LEAST_OF_XRAYLIB = 1.2e-4  # [MeV]


class _Photoelectric:
    """The cross section of an element, energies in MeV, in barn for an atom."""

    def __init__(self, z: int, xraylib: ModuleType) -> None:
        self._tabulated = np.vectorize(lambda energy: xraylib.CSb_Photo(z, max(energy, _LEAST_OF_XRAYLIB) / _KEV))
        self.edge = max(xraylib.EdgeEnergy(z, xraylib.K_SHELL) * _KEV, 2e-4)
        values = self._tabulated(_FITTED)
        # Relative residuals count the same at all energies.
        self._tail, *_ = np.linalg.lstsq(self._powers(_FITTED) / values[:, None], np.ones(len(_FITTED)), rcond=None)

    def __call__(self, energy_K: np.ndarray) -> np.ndarray:
        return np.where(
            energy_K <= _TABULATED,
            self._tabulated(np.minimum(energy_K, _TABULATED)),
            self._powers(energy_K) @ self._tail,
        )

    @staticmethod
    def _powers(energy_K: np.ndarray) -> np.ndarray:
        return np.stack([1 / energy_K, 1 / energy_K**2, 1 / energy_K**3], axis=1)


def _write_photoelectric(data: Path, folder: str, z: int, xraylib: ModuleType) -> None:
    """Tables above and below the K edge, and no parametrisation: it would begin at 1000 TeV."""
    cross_section = _Photoelectric(z, xraylib)
    edge = cross_section.edge
    above = np.concatenate([[edge * 1.0001], np.geomspace(edge * 1.001, 1e6, 220)])
    below = np.geomspace(_LEAST, edge * 0.9999, 150) if edge > 2.2e-4 else np.array([_LEAST, edge])
    for what, energies in (("cs", above), ("le-cs", below)):
        _photo(data, z, what, folder).write_text(_vector(energies, cross_section(energies) * energies**3))
    shells = "".join(f"{binding:.9g}{' 0' * 6}\n" for binding in (edge, _LEAST))
    for what in ("high", "low"):
        _photo(data, z, what, folder).write_text(f"2 1 1e9\n{shells}")


def _vector(energies: np.ndarray, values: np.ndarray) -> str:
    """As G4PhysicsVector reads it."""
    count = len(energies)
    pairs = (f"{energy:.9g} {value:.9g}" for energy, value in zip(energies, values, strict=True))
    return "\n".join(chain([f"{energies[0]:.9g} {energies[-1]:.9g} {count}", str(count)], pairs, [""]))
