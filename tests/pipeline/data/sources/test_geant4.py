"""Showers from Geant4: what they depend on, where they are in the detector, what is refused."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kantor.cli import main
from kantor.config import Dataset, Detector, Geant4Source, ShowerPhysics, parse
from kantor.data.geant4 import process, tables
from kantor.data.geant4.primaries import draw_energies
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.sources.geant4 import Geant4Showers
from kantor.data.staging import stage
from kantor.errors import ConfigError, InputError, KantorError
from kantor.machine.ranks import Ranks

# Little energy: these tests wait for Geant4 to start, not for showers.
SOFT = {"kind": "geant4", "energy": [0.05, 0.1]}


def source(**settings: Any) -> Geant4Source:
    return Geant4Source.model_validate({**SOFT, **settings})


def one_plate(material: str) -> dict[str, Any]:
    section = {"layers": 1, "cells": [1, 1], "plates": [{"material": material, "thickness": 1.0}]}
    return {"size": [100, 100], "sections": {"plate": section}}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 positrons in two blocks, by two processes."""
    out = tmp_path_factory.mktemp("calogan")
    stage("calo", dataset(), out, Ranks(), processes=2)
    return out


def dataset() -> Dataset:
    split = {"train": 0.3, "validation": 0.3, "test": 0.4}
    return Dataset.model_validate({"source": {**SOFT, "events": 60, "block": 40}, "split": split})


@pytest.fixture(scope="module")
def events(staged: Path) -> dict[str, np.ndarray]:
    parts = [read_split(staged / "manifest.json", split).columns() for split in ("train", "validation", "test")]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_what_is_staged(staged: Path, events: dict[str, np.ndarray]) -> None:
    manifest = Manifest.read(staged / "manifest.json")
    assert [(column.name, column.shape, column.unit) for column in manifest.features] == [
        ("layer_0", (3, 96), "MeV"),
        ("layer_1", (12, 12), "MeV"),
        ("layer_2", (12, 6), "MeV"),
    ]
    assert [(column.name, column.unit) for column in manifest.conditions] == [("energy", "GeV")]
    assert isinstance(manifest.physics, ShowerPhysics)
    assert manifest.generator is not None
    assert (manifest.generator.name, manifest.generator.version) == ("Geant4", "11.4.1")
    assert [shard.rows for shard in manifest.shards] == [40, 20]
    assert 0.05 <= events["energy"].min() < 0.06
    assert 0.09 < events["energy"].max() <= 0.1
    total = sum(events[name].sum((1, 2)) for name in ("layer_0", "layer_1", "layer_2"))
    # What is deposited in the absorber counts, too: a soft shower stays inside but for a photon or two.
    assert np.median(total / (1000 * events["energy"])) > 0.95
    # Besides its energy, a positron brings an electron's mass twice when it annihilates.
    assert np.all(total < 1000 * events["energy"] + 1.1)


def test_any_number_of_processes_makes_the_same_showers(staged: Path, tmp_path: Path) -> None:
    stage("calo", dataset(), tmp_path, Ranks(), processes=1)
    for shard in ("shard-0000.h5", "shard-0001.h5"):
        assert (tmp_path / shard).read_bytes() == (staged / shard).read_bytes()


def test_blocks_differ(events: dict[str, np.ndarray]) -> None:
    assert len(np.unique(events["energy"])) == 60
    assert len(np.unique(events["layer_0"].reshape(60, -1), axis=0)) == 60


def test_cells_are_where_the_particle_goes() -> None:
    """A beam beside the axis, of angles from -pi on; and one that leans towards x."""
    settings = source(detector="sicalo", particle="e-", energy=[0.5], spectrum="fixed", events=30, position=[-8, 14])
    showers = Geant4Showers(settings, rows=1000)
    (chunk,) = showers.chunks(0)
    columns = [*showers.features, *showers.conditions]
    assert chunk.columns["showers"].shape == (30, 45, 16, 9)
    assert [column.shape for column in columns] == [(45, 16, 9), ()]
    deposits = chunk.columns["showers"]
    assert not np.any((deposits > 0) & (deposits < 0.01515))
    assert mean_position(settings, chunk.columns) == pytest.approx([-8, 14], abs=2.0)

    leaning = source(energy=[0.5], spectrum="fixed", events=30, position=[-100, 60], angle=45)
    (chunk,) = Geant4Showers(leaning, rows=1000).chunks(0)
    x, y = mean_position(leaning, chunk.columns)
    # Where lead is met slantwise, the shower is some 75 mm deep, and as far to the side.
    assert -100 + 40 < x < -100 + 110
    assert y == pytest.approx(60, abs=20.0)


def mean_position(settings: Geant4Source, columns: dict[str, np.ndarray]) -> list[float]:
    """Of all deposits, x and y [mm]."""
    (first, second), detector = next(iter(settings.geometry.sections.values())).cells, settings.geometry
    deposits = next(iter(columns.values())).reshape(-1, first, second).sum(0)
    if detector.geometry == "cylinder":
        angle = (np.arange(first)[:, None] + 0.5) * 2 * np.pi / first - np.pi
        radius = (np.arange(second) + 0.5) * detector.size[0] / second
        x, y = radius * np.cos(angle), radius * np.sin(angle)
    else:
        x, y = (
            (np.arange(count) + 0.5) * size / count - size / 2
            for count, size in zip((first, second), detector.size, strict=True)
        )
        x = x[:, None]
    return [float((deposits * along).sum() / deposits.sum()) for along in (x, y)]


@pytest.mark.parametrize(
    "spectrum, energy, within",
    [("fixed", [1.0, 2.0, 4.0], {1.0, 2.0, 4.0}), ("uniform", [1.0, 3.0], None), ("log_uniform", [1.0, 100.0], None)],
)
def test_spectra(spectrum: str, energy: list[float], within: set[float] | None) -> None:
    settings = source(spectrum=spectrum, energy=energy)
    drawn = draw_energies(settings, 2000, np.random.default_rng(1))
    assert energy[0] <= drawn.min() < drawn.max() <= energy[-1]
    if within is not None:
        assert set(drawn) == within
    middle = {"fixed": 2.0, "uniform": 2.0, "log_uniform": 10.0}[spectrum]
    # The median of 2,000: a fraction of 0.5 +- 0.011 lies below it.
    assert 0.5 - 0.05 < np.mean(drawn < middle) + 0.5 * np.mean(drawn == middle) < 0.5 + 0.05


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"detector": "calogn"}, "did you mean 'calogan'"),
        ({"particle": "pi+"}, "Input should be 'e-'"),
        ({"energy": [10.0, 1.0]}, "goes from the first to the second"),
        ({"energy": [-1.0, 1.0]}, "greater than 0"),
        ({"detector": {**one_plate("G4_Pb"), "size": [100]}}, "a grid has 2"),
        ({"detector": {**one_plate("G4_Pb"), "geometry": "cylinder", "size": [50], "radius": 20}}, "at least that"),
        ({"detector": {"size": [1, 1], "sections": {"energy": one_plate("G4_Pb")["sections"]["plate"]}}}, "'energy'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Geant4Source, {**SOFT, **settings}, "test")


def test_layers_apart_are_one_section() -> None:
    plate = one_plate("G4_Pb")["sections"]["plate"]
    with pytest.raises(ValueError, match="only a detector of one section has its layers apart"):
        Detector.model_validate({"size": [1, 1], "sections": {"a": {**plate, "summed": False}, "b": plate}})


def test_an_unknown_material() -> None:
    with pytest.raises(InputError, match="Geant4 knows no material 'G4_Unobtainium'") as caught:
        process.showers(source(detector=one_plate("G4_Unobtainium"), events=1), 0)
    assert caught.value.exit_code == 2


def test_a_material_without_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of hydrogen and lead only, as somebody's own."""
    made = tables.made_tables()
    for z in (1, 82):
        for path in (f"brem_SB/br{z}", *(f"epics2017/phot/pe-{what}-{z}.dat" for what in ("cs", "le-cs"))):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).symlink_to(made / path)
    monkeypatch.setenv("G4LEDATA", str(tmp_path))
    with pytest.raises(InputError, match="'G4_PbWO4' has the element Z = 8, for which there are no data tables") as it:
        process.showers(source(detector=one_plate("G4_PbWO4"), events=1), 0)
    assert str(tmp_path) in str(it.value)


def test_tables_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("G4LEDATA", str(tmp_path / "none"))
    with pytest.raises(InputError, match="G4LEDATA names no directory"):
        Geant4Showers(source(), rows=10).check()


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Geant4 asks where it misses data sets; where CI=true it would not even ask."""
    monkeypatch.setenv("CI", "true")
    assert "CI" not in tables.environment()
    without = {name: value for name, value in tables.environment().items() if not name.startswith("G4")}
    monkeypatch.setattr(tables, "environment", lambda: without | {"HOME": str(tmp_path)})
    with pytest.raises(InputError, match="asks whether to download data sets, and Kantor downloads nothing") as caught:
        process.showers(source(events=1), 0)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["geant4_pybind", "xraylib"])
def test_a_missing_package(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("G4LEDATA", raising=False)
    settings = Dataset.model_validate({"source": SOFT}).canonical()
    assert main(["stage", "--dataset", "calo", "--settings", settings, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"needs the package '{package}'" in said
    assert "pip install 'kantor[geant4]'" in said
    assert not (tmp_path / "out").exists()


def test_a_crash_of_geant4_is_explained() -> None:
    thin = {"layers": 1, "cells": [1, 1], "plates": [{"material": "G4_Pb", "thickness": 1e-12}]}
    settings = source(events=1, detector={"size": [100, 100], "sections": {"plate": thin}})
    with pytest.raises(KantorError, match=r"Geant4 ended by signal 6: .*[Dd]imensions too small"):
        process.showers(settings, 0)


def test_importing_it_in_the_main_process_is_not_needed(events: dict[str, np.ndarray]) -> None:
    """It would ask for a download, and change the environment."""
    assert "geant4_pybind" not in sys.modules
    assert "G4ENSDFSTATEDATA" not in os.environ
