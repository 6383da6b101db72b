"""Public data sets: each from a small file of exactly its layout, which these tests write."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kantor.cli import main
from kantor.config import CaloChallengeSource, Dataset, ShowerPhysics
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.sources import make_source
from kantor.data.sources.public import PublicFiles
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks
from kantor.physics.showers import Showers

ROWS = 100
# Voxels of each layer as published, (angles, radii).
VOXELS = {
    "1_photons": [(1, 8), (10, 16), (10, 19), (1, 5), (1, 5)],
    "1_pions": [(1, 8), (10, 10), (10, 10), (1, 5), (10, 15), (10, 16), (1, 10)],
    "2": [(45 * 16, 9)],
    "3": [(45 * 50, 18)],
}


def showers(voxels: int, unit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Incident energies (n, 1) [MeV], and showers (n, voxels) [unit MeV] that hold 0.8 of them."""
    rng = np.random.default_rng(voxels)
    energy = 2.0 ** rng.integers(8, 23, (ROWS, 1))
    share = (rng.gamma(0.5, size=(ROWS, voxels)) + 1e-3) * (rng.random((ROWS, voxels)) < 0.3)
    return energy, 0.8 * energy * share / share.sum(1, keepdims=True) / unit


def write_calochallenge(
    path: Path, dataset: str, change: Callable[[dict[str, np.ndarray]], None] = lambda _: None
) -> None:
    """float64, compressed, as the CaloChallenge's own notebook writes it."""
    energy, voxels = showers(sum(angles * radii for angles, radii in VOXELS[dataset]))
    arrays = {"incident_energies": energy, "showers": voxels}
    change(arrays)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")


def write_calogan(path: Path) -> dict[str, np.ndarray]:
    energy, cells = showers(3 * 96 + 12 * 12 + 12 * 6)
    first, second, third = np.split(cells, [288, 432], axis=1)
    arrays = {
        "energy": energy / 1000,
        "layer_0": first.reshape(ROWS, 3, 96),
        "layer_1": second.reshape(ROWS, 12, 12),
        "layer_2": third.reshape(ROWS, 12, 6),
        "overflow": np.full((ROWS, 3), 0.5),
    }
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")
    return arrays


def write_jetnet(path: Path, particles: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    arrays = {
        "particle_features": rng.normal(size=(ROWS, particles, 4)).astype(np.float32),
        "jet_features": rng.uniform(1, 1000, (ROWS, 4)).astype(np.float32),
    }
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return arrays


def settings(path: Path | None, **source: Any) -> Dataset:
    paths = {} if path is None else {"paths": [str(path)]}
    split = {"train": 0.3, "validation": 0.3, "test": 0.4}
    return Dataset.model_validate({"source": {**paths, **source}, "split": split, "shard_rows": 60})


def staged(dataset: Dataset, out: Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """The manifest, and the columns in the order of the file."""
    manifest = stage("public", dataset, out, Ranks(), processes=1)
    parts = [read_split(out / "manifest.json", split).columns() for split in ("train", "validation", "test")]
    order = np.argsort(np.random.default_rng(dataset.split.seed).permutation(manifest.rows))
    return manifest, {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


@pytest.mark.parametrize("dataset", ["1_photons", "1_pions", "2"])
def test_calochallenge(tmp_path: Path, dataset: str) -> None:
    write_calochallenge(tmp_path / "data.hdf5", dataset)
    manifest, columns = staged(
        settings(tmp_path / "data.hdf5", kind="calochallenge", dataset=dataset), tmp_path / "out"
    )
    energy, voxels = showers(sum(angles * radii for angles, radii in VOXELS[dataset]))
    assert [column.unit for column in [*manifest.features, *manifest.conditions]] == ["MeV"] * (
        len(VOXELS[dataset]) + 1
    )
    found = [columns[column.name] for column in manifest.features]
    expected = [(45, 16, 9)] if dataset == "2" else VOXELS[dataset]
    assert [values.shape[1:] for values in found] == expected
    assert np.array_equal(np.concatenate([each.reshape(ROWS, -1) for each in found], axis=1), voxels.astype(np.float32))
    assert np.array_equal(columns["energy"], energy[:, 0].astype(np.float32))
    assert [shard.rows for shard in manifest.shards] == [60, 40]


def test_a_number_names_a_data_set() -> None:
    assert CaloChallengeSource.model_validate({"kind": "calochallenge", "dataset": 3}).dataset == "3"


def test_calochallenge_3_is_read(tmp_path: Path) -> None:
    write_calochallenge(tmp_path / "data.hdf5", "3")
    source = make_source(settings(tmp_path / "data.hdf5", kind="calochallenge", dataset=3).source, rows=70)
    chunks = [chunk.columns["showers"] for chunk in source.chunks(0)]
    assert [chunk.shape for chunk in chunks] == [(70, 45, 50, 18), (30, 45, 50, 18)]
    _, voxels = showers(40500)
    assert np.array_equal(np.concatenate(chunks).reshape(ROWS, -1), voxels)


def test_calogan(tmp_path: Path) -> None:
    arrays = write_calogan(tmp_path / "eplus.hdf5")
    dataset = settings(tmp_path / "eplus.hdf5", kind="calogan", overflow=True)
    manifest, columns = staged(dataset, tmp_path / "out")
    assert manifest.units == {"layer_0": "MeV", "layer_1": "MeV", "layer_2": "MeV", "overflow": "MeV", "energy": "GeV"}
    for name in ("layer_0", "layer_1", "layer_2", "overflow"):
        assert np.array_equal(columns[name], arrays[name].astype(np.float32))
    assert np.array_equal(columns["energy"], arrays["energy"][:, 0].astype(np.float32))
    assert isinstance(manifest.physics, ShowerPhysics)
    without = make_source(settings(tmp_path / "eplus.hdf5", kind="calogan").source, rows=1000)
    assert [column.name for column in without.features] == ["layer_0", "layer_1", "layer_2"]


@pytest.mark.parametrize("particles", [30, 150])
def test_jetnet(tmp_path: Path, particles: int) -> None:
    arrays = write_jetnet(tmp_path / "g.hdf5", particles)
    source = {"kind": "jetnet", "jets": "g", "particles": particles, "conditions": ["mass", "pt"]}
    manifest, columns = staged(settings(tmp_path / "g.hdf5", **source), tmp_path / "out")
    assert manifest.shapes == {"particles": (particles, 4)}
    assert np.array_equal(columns["particles"], arrays["particle_features"])
    assert np.array_equal(columns["mass"], arrays["jet_features"][:, 2])
    assert np.array_equal(columns["pt"], arrays["jet_features"][:, 0])
    assert manifest.units["mass"] == "GeV"


# ------------------------------------------------------------- the quantities of the CaloChallenge's public evaluation


def evaluated(voxels: np.ndarray, dataset: str, radii: list[list[float]]) -> dict[str, np.ndarray]:
    """As the CaloChallenge defines them (arXiv:2410.21611, section 4), worked out voxel by voxel with loops."""
    found: dict[str, np.ndarray] = {"E_tot": voxels.sum(1)}
    begin = 0
    for layer, ((angles, _), edges) in enumerate(zip(VOXELS[dataset], radii, strict=True)):
        places = [
            ((low + high) / 2, -np.pi + (angle + 0.5) * 2 * np.pi / angles)
            for angle in range(angles)
            for low, high in pairwise(edges)
        ]
        part = voxels[:, begin : begin + len(places)]
        begin += len(places)
        found[f"E_{layer}"] = part.sum(1)
        found[f"sparsity_{layer}"] = 1 - (part == 0).mean(1)
        radius, alpha = np.array(places).T
        along = {"r": radius} if angles == 1 else {"eta": radius * np.cos(alpha), "phi": radius * np.sin(alpha)}
        for axis, place in along.items():
            centre = (part * place).sum(1) / (part.sum(1) + 1e-16)
            square = (part * place**2).sum(1) / (part.sum(1) + 1e-16)
            found[f"centre_{axis}_{layer}"] = centre
            found[f"width_{axis}_{layer}"] = np.sqrt(np.clip(square - centre**2, 0, None))
    return found


@pytest.mark.parametrize("dataset", ["1_photons", "1_pions"])
def test_observables_are_those_of_the_public_evaluation(tmp_path: Path, dataset: str) -> None:
    write_calochallenge(tmp_path / "data.hdf5", dataset)
    source = make_source(settings(tmp_path / "data.hdf5", kind="calochallenge", dataset=dataset).source, rows=1000)
    assert isinstance(source, PublicFiles)
    (chunk,) = source.chunks(0)
    assert isinstance(source.physics, ShowerPhysics)
    derived = Showers(source.physics, {}, [*source.features, *source.conditions]).derive(chunk.columns)
    energy, voxels = showers(sum(angles * radii for angles, radii in VOXELS[dataset]))
    binning = CaloChallengeSource.model_validate({"kind": "calochallenge", "dataset": dataset}).binning
    radii = [layer.radii for layer in binning.layers.values()]
    expected = {**evaluated(voxels, dataset, radii), "response": voxels.sum(1) / energy[:, 0]}
    for name, values in expected.items():
        # Widths are roots of differences of squares of up to 2000 mm.
        np.testing.assert_allclose(derived[name], values, rtol=1e-9, atol=1e-4 if "width" in name else 1e-9)
    # Besides, there are shares of layers, the depth and its spread, and the gap between the two largest voxels.
    assert {name.split("_")[0] for name in set(derived) - set(expected)} == {"share", "depth", "gap"}


# ------------------------------------------------------------------------------------------------------ what is refused


def negative(arrays: dict[str, np.ndarray]) -> None:
    arrays["showers"][90, 9] = -2.0


def no_energy(arrays: dict[str, np.ndarray]) -> None:
    arrays["incident_energies"][7] = 0.0


def in_gev(arrays: dict[str, np.ndarray]) -> None:
    arrays["incident_energies"] /= 1000


def deposits_in_gev(arrays: dict[str, np.ndarray]) -> None:
    arrays["showers"] /= 1000


def not_a_number(arrays: dict[str, np.ndarray]) -> None:
    arrays["showers"][42, 170] = np.nan


def too_few(arrays: dict[str, np.ndarray]) -> None:
    arrays["showers"] = arrays["showers"][:, :-1]


def misnamed(arrays: dict[str, np.ndarray]) -> None:
    arrays["energy"] = arrays.pop("incident_energies")


@pytest.mark.parametrize(
    "change, message",
    [
        (negative, "layer_1[0][1] of row 90 is -2 MeV"),
        (no_energy, "the incident energy of row 7 is 0"),
        (in_gev, "more than 800 times their incident energy; expected is about 1, a factor of about 1,000 off"),
        (deposits_in_gev, "more than 0.0008 times their incident energy; expected is about 1, a factor of about 1,000"),
        (
            not_a_number,
            "numbers too large for float32 (layer_2 1); the first is layer_2[0][2] in row 42",
        ),
        (too_few, "holds arrays of 367 in each row, not arrays of 368"),
        (misnamed, "there is no column 'incident_energies'"),
    ],
)
def test_files_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, np.ndarray]], None], message: str
) -> None:
    path, out = tmp_path / "data.hdf5", tmp_path / "out"
    write_calochallenge(path, "1_photons", change)
    dataset = settings(path, kind="calochallenge", dataset="1_photons")
    assert refused(dataset, out, capsys, message, str(path))


def refused(dataset: Dataset, out: Path, capsys: pytest.CaptureFixture[str], *messages: str) -> bool:
    code = main(["stage", "--dataset", "x", "--settings", dataset.canonical(), "--out", str(out), "--processes", "1"])
    said = capsys.readouterr().err
    for message in (*messages, "cure: "):
        assert message in said
    return code == 2 and not list(out.glob("*"))


def test_a_truncated_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.hdf5"
    write_calochallenge(path, "1_photons")
    path.write_bytes(path.read_bytes()[:-1000])
    dataset = settings(path, kind="calochallenge", dataset="1_photons")
    assert refused(dataset, tmp_path / "out", capsys, "cannot be read as HDF5", "truncated or damaged", str(path))


def test_a_file_of_another_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.hdf5"
    write_calochallenge(path, "1_pions")
    dataset = settings(path, kind="calochallenge", dataset="1_photons")
    cure = "no file of the CaloChallenge's data set 1_photons, in which an event has: incident_energies, showers (368,)"
    assert refused(dataset, tmp_path / "out", capsys, "holds arrays of 533", cure)


def test_nothing_is_downloaded_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "kantor" / "downloads"
    dataset = settings(None, kind="calochallenge", dataset="2")
    address = "https://zenodo.org/record/6366271/files/dataset_2_1.hdf5"
    assert refused(
        dataset, tmp_path / "out", capsys, "dataset_2_1.hdf5 is not here", address, str(folder), "download: true"
    )
    # Put there by hand, both files are read.
    folder.mkdir(parents=True)
    for number in (1, 2):
        write_calochallenge(folder / f"dataset_2_{number}.hdf5", "2")
    assert stage("x", dataset, tmp_path / "out", Ranks(), processes=1).rows == 2 * ROWS


def test_what_has_no_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = settings(None, kind="calogan")
    assert refused(dataset, tmp_path / "out", capsys, "https://data.mendeley.com/datasets/pvn3xc3wy5/1", "eplus.hdf5")


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "pooch", None)
    dataset = settings(None, kind="jetnet", jets="t", download=True)
    assert refused(dataset, tmp_path / "out", capsys, "needs the package 'pooch'", "pip install 'kantor[download]'")


def test_addresses_are_those_of_zenodo() -> None:
    for dataset, files in (("1_photons", 2), ("1_pions", 2), ("2", 2), ("3", 4)):
        source = make_source(settings(None, kind="calochallenge", dataset=dataset).source, rows=1)
        assert isinstance(source, PublicFiles)
        assert len(source.published) == source.pieces == files
        for file in source.published:
            assert file.address.startswith("https://zenodo.org/record/")
            assert file.md5 is not None
            assert len(file.md5) == 32
    jets = make_source(settings(None, kind="jetnet", jets="g", particles=150).source, rows=1)
    assert isinstance(jets, PublicFiles)
    (file,) = jets.published
    assert (file.name, file.record) == ("g150.hdf5", "https://zenodo.org/api/records/6975117")
    assert json.dumps(file.md5) == "null"
