"""Showers in the layout of the CaloChallenge: there and back, and its public evaluation's quantities of the file."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kantor.cli import main
from kantor.config import Dataset, Training
from kantor.data.samples import Sample, read_split
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks
from kantor.models.bundle import Bundle
from kantor.training.job import Job
from kantor.training.worker import work

ROWS, THRESHOLD = 500, 0.02
LAYERS, ANGLES, RADII, STEP = 5, 4, 3, 4.65
TRAINING = {
    "dataset": "calo",
    "transforms": {"energy": [{"kind": "log"}, {"kind": "standardise"}]},
    "coordinates": [
        {"kind": "shower", "layers": ["showers"], "energy": "energy", "scale": 1000, "threshold": THRESHOLD}
    ],
    "generator": {"latent": 4, "width": 8, "depth": 1},
    "critic": {"width": 8, "depth": 1},
    "objective": {"kind": "wgan_gp"},
    "batch": 32,
    "steps": 2,
}


def dataset(path: Path, **physics: Any) -> Dataset:
    source = {
        "kind": "file",
        "paths": [str(path)],
        "features": {"showers": {"column": "e", "shape": [LAYERS, ANGLES, RADII]}},
        "conditions": ["energy"],
        "units": {"showers": "MeV", "energy": "GeV"},
    }
    kind = {"kind": "showers", "layers": ["showers"], "energy": "energy", "scale": 1000, "threshold": THRESHOLD}
    cylinder = {"geometry": "cylinder", "size": [RADII * STEP], "axes": ["eta", "phi"], "length_unit": "mm"}
    return Dataset.model_validate({"source": source, "physics": {**kind, **cylinder, **physics}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and model/ of showers of 1 to 10 GeV, the energy in GeV, the voxels in MeV."""
    folder = tmp_path_factory.mktemp("calo")
    rng = np.random.default_rng(5)
    energy = rng.uniform(1, 10, ROWS)
    share = rng.gamma(0.3, size=(ROWS, LAYERS * ANGLES * RADII))
    voxels = 900 * energy[:, None] * share / share.sum(1, keepdims=True)
    np.savez(folder / "e.npz", e=np.where(voxels < THRESHOLD, 0, voxels), energy=energy)
    stage("calo", dataset(folder / "e.npz"), folder / "data", Ranks(), processes=1)
    settings = Training.model_validate(TRAINING)
    work(Job("calo", 1, settings, folder / "data" / "manifest.json", folder / "model", "code", workers=1))
    return folder


def run(folder: Path, out: Path, *more: str) -> int:
    manifest = str(folder / "data" / "manifest.json")
    return main(["export", "--format", "calochallenge", "--manifest", manifest, "--out", str(out), *more])


def content(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """As the public evaluation reads it: incident energies (N, 1) and showers (N, voxels) [MeV]."""
    with h5py.File(path) as file:
        assert sorted(file) == ["incident_energies", "showers"]
        assert {file[name].compression for name in file} == {"gzip"}  # type: ignore[union-attr]
        return file["incident_energies"][:], file["showers"][:]  # type: ignore[index]


def truth(folder: Path, split: Any = "test") -> Sample:
    return read_split(folder / "data" / "manifest.json", split)


def test_staged_showers_are_written_as_they_are(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "truth.hdf5", "--split", "train") == 0
    energies, showers = content(tmp_path / "truth.hdf5")
    sample = truth(folder, "train")
    assert energies.shape == (300, 1)
    assert showers.shape == (300, LAYERS * ANGLES * RADII)
    assert np.array_equal(showers, sample.features)
    assert np.array_equal(energies, 1000 * sample.conditions.astype(np.float64))


def test_generated_showers_are_those_of_the_bundle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sample = folder / "model" / "model.pt", truth(folder)
    bundle = Bundle.load(model)
    expected = bundle.generate(250, np.tile(sample.conditions, (3, 1))[:250], seed=3)
    # In blocks, and more than the split has rows.
    monkeypatch.setattr("kantor.export._AT_ONCE", 70 * LAYERS * ANGLES * RADII)
    assert run(folder, tmp_path / "generated.hdf5", "--model", str(model), "--events", "250", "--seed", "3") == 0
    energies, showers = content(tmp_path / "generated.hdf5")
    assert np.array_equal(showers, expected)
    assert np.array_equal(energies[100:200], energies[:100])


def test_the_public_evaluation_of_the_file(folder: Path, tmp_path: Path) -> None:
    """Its quantities, worked out here voxel by voxel, are the observables of the dataset's physics."""
    from kantor.data.manifest import Manifest
    from kantor.physics import physics_of

    assert run(folder, tmp_path / "truth.hdf5") == 0
    energies, showers = content(tmp_path / "truth.hdf5")
    path = folder / "data" / "manifest.json"
    columns = truth(folder).columns()
    derived = physics_of(Manifest.read(path), path).derive({name: v.astype(float) for name, v in columns.items()})
    np.testing.assert_allclose(derived["response"], showers.sum(1, dtype=float) / energies[:, 0], rtol=1e-7)
    for layer in range(LAYERS):
        size = ANGLES * RADII
        part = showers[:, layer * size : (layer + 1) * size].astype(float)
        place = np.arange(size)
        radius = STEP * (place % RADII + 0.5)
        alpha = -np.pi + (place // RADII + 0.5) * 2 * np.pi / ANGLES
        np.testing.assert_allclose(derived[f"E_{layer}"], part.sum(1), rtol=1e-9)
        np.testing.assert_allclose(1 - derived[f"sparsity_{layer}"], (part == 0).mean(1), atol=1e-12)
        for axis, along in (("eta", radius * np.cos(alpha)), ("phi", radius * np.sin(alpha))):
            centre = part @ along / (part.sum(1) + 1e-16)
            width = np.sqrt(np.clip(part @ along**2 / (part.sum(1) + 1e-16) - centre**2, 0, None))
            np.testing.assert_allclose(derived[f"centre_{axis}_{layer}"], centre, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(derived[f"width_{axis}_{layer}"], width, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--events", "101"], "the test split has 100 rows, not 101"),
        (["--model", "missing.pt"], "missing.pt: there is no such file"),
    ],
)
def test_what_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run(folder, tmp_path / "out.hdf5", *more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_geometry_is_not_that_of_the_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = dataset(folder / "e.npz").model_dump(mode="json")
    flat["source"]["features"]["showers"]["shape"] = [RADII, ANGLES, LAYERS]
    stage("calo", Dataset.model_validate(flat), tmp_path / "data", Ranks(), processes=1)
    assert run(tmp_path, tmp_path / "out.hdf5", "--model", str(folder / "model" / "model.pt")) == 2
    said = capsys.readouterr().err
    assert "the model's features are showers (5, 4, 3), and those of the dataset showers (3, 4, 5)" in said


def test_a_dataset_without_showers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = dataset(folder / "e.npz").model_copy(update={"physics": None})
    stage("calo", plain, tmp_path / "data", Ranks(), processes=1)
    assert run(tmp_path, tmp_path / "out.hdf5") == 2
    assert "is no dataset of showers with a known incident energy" in capsys.readouterr().err
