"""What is known of Cherenkov likelihoods: each law broken once, and held by what the toy makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kantor.config import RichPhysics, RichSource
from kantor.data.manifest import Manifest
from kantor.data.sources.rich import RichTracks
from kantor.data.sources.tracks import collide
from kantor.errors import InputError
from kantor.physics import physics_of
from kantor.physics.rich import Rich
from kantor.results import Column

COLUMNS = [Column(name="p", unit="GeV"), Column(name="eta")]


def rich(columns: list[Column] = COLUMNS, **settings: Any) -> Rich:
    return Rich(RichPhysics.model_validate({"kind": "rich", **settings}), {}, columns)


def broken(physics: Rich, columns: dict[str, np.ndarray]) -> dict[str, list[bool]]:
    known = columns | physics.derive(columns)
    return {law.name: law.broken(known).tolist() for law in physics.laws}


def test_each_law_is_broken_by_its_own_row() -> None:
    rows = np.array(
        [
            # p, eta, DLLe, DLLmu, DLLk, DLLp, DLLbt
            [10.0, 3, 5, 1, -3, -8, -8],  # breaks none
            [90.0, 3, 0, 0, -3, -8, -9],  # none
            [90.0, 3, 5, 1, -8, -3, -8],  # no kaon's light, a proton's
            [90.0, 3, 5, 1, -8, 0, 0],  # no pion's light, a kaon's
            [10.0, 3, 5, 1, -3, -8, -9],  # too slow a proton
            [90.0, 3, 5, 1, 0.5, 0.25, 20.5],  # more is missing than photons are expected
        ],
        dtype=np.float32,
    )
    names = ("p", "eta", "DLLe", "DLLmu", "DLLk", "DLLp", "DLLbt")
    columns: dict[str, Any] = dict(zip(names, rows.T, strict=True))
    assert broken(rich(refractive_index=1.0014, photons=20.0), columns) == {
        "light_of_heavier": [False, False, True, True, False, False],
        "proton_below_threshold": [False, False, False, False, True, False],
        "less_than_no_light": [False, False, False, False, False, True],
    }
    assert list(broken(rich(), columns)) == ["light_of_heavier"]


def test_the_threshold_is_in_the_unit_of_the_momentum() -> None:
    columns = dict.fromkeys(("DLLe", "DLLmu", "DLLk", "DLLp"), np.array([1.0, 1.0]))
    columns |= {"P": np.array([17_700.0, 17_800.0]), "DLLbt": np.array([0.5, 0.5])}
    physics = rich([Column(name="P", unit="MeV")], momentum="P", pseudorapidity=None, refractive_index=1.0014)
    # sqrt(n2 - 1) = 0.05293, of 938.27 MeV.
    assert broken(physics, columns)["proton_below_threshold"] == [True, False]
    with pytest.raises(InputError, match=r"'P' is in \[TeV\]"):
        rich([Column(name="P", unit="TeV")], momentum="P", pseudorapidity=None, refractive_index=1.0014)


def test_the_toy_breaks_no_law() -> None:
    source = RichTracks(RichSource.model_validate({"kind": "rich"}), 1000)
    tracks = collide(3000, seed=3)
    answered = source.respond(tracks, np.random.default_rng(1)).astype(np.float32)
    columns = dict(zip(source.names, answered.T, strict=True)) | {"p": tracks.p, "eta": tracks.eta}
    found = broken(rich(**source.physics.model_dump(exclude={"kind"})), columns)
    assert {name: sum(rows) for name, rows in found.items()} == dict.fromkeys(found, 0)
    assert len(found) == 3


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="there is no 'p'"):
        rich([])
    manifest = Manifest.model_construct(
        dataset="d",
        features=[Column(name="DLLk")],
        conditions=COLUMNS,
        physics=RichPhysics(kind="rich"),
        constants={},
    )
    with pytest.raises(InputError, match=r"no feature 'DLLe'") as caught:
        physics_of(manifest, Path("manifest.json"))
    assert "DLLe, DLLmu, DLLk, DLLp, DLLbt [no unit]" in str(caught.value)
