"""Log likelihoods of Cherenkov detectors, DLLx = log L_x - log L_pion, and of `bt`, a particle below threshold.

What holds of any extended likelihood log L_x = sum_i log(s_x(i) + b(i)) - N_x of photons i, with N_x expected ones:

- who emits no light has s_x = 0 and log L_x = log L_bt, exactly. Of two particles of one momentum the heavier emits
  less, so that DLLk = DLLbt makes DLLp = DLLbt, and DLLbt = 0 makes DLLk = DLLp = 0;
- a particle emits light above p = m / sqrt(n^2 - 1) (Particle Data Group, chapter "Particle detectors");
- since s_x >= 0, log L_x >= log L_bt - N_x.
"""

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np

from kantor.config import RichPhysics
from kantor.errors import InputError
from kantor.physics.base import Columns, Law, Observable, Physics
from kantor.physics.dis import PROTON_MASS
from kantor.results import Column

_PER_GEV = {"GeV": 1.0, "MeV": 1000.0, "GeV/c": 1.0, "MeV/c": 1000.0}
_ROUNDING = 1e-3  # of sums of float32 likelihoods


class Rich(Physics):
    """DLLe, DLLmu, DLLk, DLLp, DLLbt.

    Raises:
        InputError: there is no such momentum or pseudorapidity, or the momentum is in another unit.
    """

    features: Mapping[str, str] = dict.fromkeys(("DLLe", "DLLmu", "DLLk", "DLLp", "DLLbt"), "")
    labels: Mapping[str, str] = {
        "DLLe": "DLL_e",
        "DLLmu": "DLL_μ",
        "DLLk": "DLL_K",
        "DLLp": "DLL_p",
        "DLLbt": "DLL_bt",
    }
    # A classifier has to be shown that two columns are equal.
    classified = ("DLLpk", "DLLbtp")

    def __init__(self, settings: RichPhysics, constants: Mapping[str, float], columns: Sequence[Column] = ()) -> None:
        self._settings = settings
        units = {column.name: column.unit for column in columns}
        for name in (settings.momentum, settings.pseudorapidity):
            if name is not None and name not in units:
                raise InputError(
                    f"its physics is 'rich', and there is no '{name}'",
                    cure="name the conditions by physics.momentum and physics.pseudorapidity, or say none: ~",
                )
        observables = [
            Observable("DLLpk", "DLL_p − DLL_K", "", "derived"),
            Observable("DLLbtp", "DLL_bt − DLL_p", "", "derived"),
        ]
        if settings.momentum is not None:
            observables.append(Observable("momentum", "p", units[settings.momentum], "derived", scale="log"))
            self.planes = (("momentum", "DLLpk"),)
        if settings.pseudorapidity is not None:
            observables.append(Observable("pseudorapidity", "η", "", "derived"))
        if settings.momentum is not None and settings.pseudorapidity is not None:
            self.planes = (*self.planes, ("momentum", "pseudorapidity"))
        self.observables = tuple(observables)
        self.laws = tuple(_laws(settings, units))

    def derive(self, columns: Columns) -> dict[str, np.ndarray]:
        dll = {name: columns[name].astype(np.float64) for name in self.features}
        derived = {"DLLpk": dll["DLLp"] - dll["DLLk"], "DLLbtp": dll["DLLbt"] - dll["DLLp"]}
        given = {"momentum": self._settings.momentum, "pseudorapidity": self._settings.pseudorapidity}
        return derived | {name: columns[of].astype(np.float64) for name, of in given.items() if of is not None}


def _laws(settings: RichPhysics, units: Mapping[str, str]) -> list[Law]:
    laws = [Law("light_of_heavier", "light of a particle where a lighter one has none", _light_of_heavier, True)]
    momentum, index, photons = settings.momentum, settings.refractive_index, settings.photons
    if momentum is not None and index is not None:
        unit = units[momentum]
        if unit not in _PER_GEV:
            raise InputError(
                f"its physics is 'rich', and '{momentum}' is in [{unit}]", cure="give its unit: GeV or MeV, in 'units'"
            )
        threshold = PROTON_MASS / sqrt(index**2 - 1) * _PER_GEV[unit]
        laws.append(
            Law(
                "proton_below_threshold",
                f"DLL_p ≠ DLL_bt below the proton's threshold of {threshold:.4g} {unit}",
                lambda columns: (columns[momentum] < threshold) & (columns["DLLp"] != columns["DLLbt"]),
                True,
            )
        )
    if photons is not None:
        laws.append(
            Law(
                "less_than_no_light",
                f"a DLL more than {photons:g} below DLL_bt",
                lambda columns: _lowest(columns) < columns["DLLbt"] - photons - _ROUNDING,
            )
        )
    return laws


def _light_of_heavier(columns: Columns) -> np.ndarray:
    kaon, proton, none = (columns[name] for name in ("DLLk", "DLLp", "DLLbt"))
    return ((kaon == none) & (proton != none)) | ((none == 0) & ((kaon != 0) | (proton != 0)))


def _lowest(columns: Columns) -> np.ndarray:
    """The lowest of all hypotheses with light, of which the pion's is 0."""
    return np.minimum.reduce([columns[name] for name in ("DLLe", "DLLmu", "DLLk", "DLLp")] + [0 * columns["DLLe"]])
