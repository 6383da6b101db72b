"""Showers from a file to the report: three layers of different shapes beside a number, given the incident energy."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from kantor.config import Dataset, Training, Validation
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.errors import InputError
from kantor.machine.ranks import Ranks
from kantor.models.bundle import Bundle
from kantor.report.page import ModelFiles, write_report
from kantor.results import Comparison
from kantor.shapes import named
from kantor.training.assembly import assemble
from kantor.training.job import Job
from kantor.training.worker import work
from kantor.validation.compare import validate

SHAPES = {"layer_0": (3, 8), "layer_1": (4, 4), "layer_2": (4, 2)}
THRESHOLD = 0.05
ROWS = 1200
PHYSICS = {"kind": "showers", "layers": list(SHAPES), "energy": "energy", "scale": 1000, "threshold": THRESHOLD}
SHOWER = {"kind": "shower", "layers": list(SHAPES), "energy": "energy", "scale": 1000, "threshold": THRESHOLD}
TRAINING = {
    "dataset": "calo",
    "transforms": {
        "energy": [{"kind": "log"}, {"kind": "standardise"}],
        "overflow": [{"kind": "dequantise", "interval": [0.0, 0.5]}, {"kind": "log", "offset": 1}],
    },
    "coordinates": [SHOWER],
    "critic_features": {"profile": "sum(layer_1, 1) / energy"},
    "critic_observables": ["E_tot", "share_?"],
    "generator": {"latent": 8, "width": 16, "depth": 2},
    "critic": {"width": 16, "depth": 2},
    "objective": {"kind": "wgan_gp"},
    "terms": [{"kind": "constrainer", "steps": 5}],
    "batch": 64,
    "steps": 20,
    "evaluate_every": 10,
    "evaluate_rows": 100,
}
QUICK = {"rows": 100, "splits": 5, "replicas": 20, "observables": {"calo": {"rows": "sum(layer_2, 1)"}}}


def write_showers(path: Path) -> None:
    """In the layout of CaloGAN: layers [MeV], energy (N, 1) [GeV], overflow (N, 3) [MeV]."""
    rng = np.random.default_rng(1)
    energy = rng.uniform(1, 10, ROWS)
    layers = rng.dirichlet([4, 10, 2], ROWS) * (1000 * energy * np.clip(rng.normal(0.93, 0.03, ROWS), 0.5, 1))[:, None]
    layers[: ROWS // 10, 2] = 0
    with h5py.File(path, "w") as file:
        for k, (name, shape) in enumerate(SHAPES.items()):
            share = rng.gamma(0.3, 1.0, (ROWS, int(np.prod(shape))))
            image = share / share.sum(1, keepdims=True) * layers[:, k : k + 1]
            image[image < THRESHOLD] = 0
            file[name] = image.reshape(ROWS, *shape).astype(np.float32)
        file["energy"] = energy[:, None]
        overflow = 0.5 + rng.exponential(1.0, (ROWS, 3))
        file["overflow"] = np.where(rng.random((ROWS, 3)) < 0.3, 0.0, overflow)


def dataset(path: Path, **changes: object) -> Dataset:
    features = {name: {"column": name, "shape": list(shape)} for name, shape in SHAPES.items()}
    source = {
        "kind": "file",
        "paths": [str(path)],
        "features": features | {"overflow": "overflow[0]"},
        "conditions": ["energy"],
        "units": {**dict.fromkeys(SHAPES, "MeV"), "overflow": "MeV", "energy": "GeV"},
    }
    return Dataset.model_validate({"source": source, "cuts": ["sum(layer_0) > 0"], "physics": PHYSICS} | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and model/ of showers that are staged and trained on."""
    folder = tmp_path_factory.mktemp("calo")
    write_showers(folder / "eplus.hdf5")
    stage("calo", dataset(folder / "eplus.hdf5"), folder / "data", Ranks(), processes=1)
    settings = Training.model_validate(TRAINING)
    job = Job("calo", 1, settings, folder / "data" / "manifest.json", folder / "model", "code", workers=1)
    work(job)
    return folder


def test_generated_showers_are_showers(folder: Path) -> None:
    bundle = Bundle.load(folder / "model" / "model.pt")
    assert [str(column) for column in bundle.features] == [*(f"{n} {s}" for n, s in SHAPES.items()), "overflow"]
    energy = np.linspace(1, 10, 500, dtype=np.float32)[:, None]
    events = bundle.generate(500, energy, seed=2)
    assert events.shape == (500, 24 + 16 + 8 + 1)
    arrays = named(events, bundle.feature_names, bundle.shapes)
    total = sum(arrays[name].reshape(500, -1).sum(1) for name in SHAPES)
    assert ((total / (1000 * energy[:, 0]) > 0.3) & (total / (1000 * energy[:, 0]) < 1.1)).all()
    for name in SHAPES:
        assert arrays[name].shape == (500, *SHAPES[name])
        assert ((arrays[name] == 0) | (arrays[name] >= np.float32(THRESHOLD))).all()
    assert np.array_equal(events[100:200], bundle.generate(100, energy[100:200], seed=2, start=100))


def test_the_critic_sees_coordinates_and_observables(folder: Path) -> None:
    settings = Training.model_validate(TRAINING)
    one, two = (assemble(settings, seed, folder / "data" / "manifest.json") for seed in (1, 1))
    # 48 voxels and 3 energies, the overflow; a profile of 4, E_tot and 3 shares.
    assert one.rows.real.shape[1] == 51 + 1 + 4 + 4
    assert torch.equal(one.rows.real, two.rows.real)
    other = assemble(settings, 2, folder / "data" / "manifest.json")
    assert not torch.equal(one.rows.real, other.rows.real)
    train = read_split(folder / "data" / "manifest.json", "train").columns()
    total = sum(train[name].reshape(len(train[name]), -1).sum(1) for name in SHAPES)
    seen = one.rows.real[:, 56] * one.view.deviation[4] + one.view.mean[4]
    np.testing.assert_allclose(seen.numpy(), total, rtol=1e-4)


def test_from_the_comparison_to_the_report(folder: Path) -> None:
    settings = Validation.model_validate(QUICK)
    manifest = folder / "data" / "manifest.json"
    validate(folder / "model" / "model.pt", manifest, settings, folder / "validation", Ranks())
    comparison = Comparison.read(folder / "validation" / "metrics.json")
    assert {column.name: column.shape for column in comparison.features} == {**SHAPES, "overflow": ()}
    compared = {found.observable for found in comparison.measurements if found.statistic == "w1"}
    assert {
        "overflow",
        "E_tot",
        "response",
        "E_0",
        "sparsity_2",
        "centre_x_1",
        "depth",
        "rows[0]",
        "rows[3]",
    } <= compared
    assert "layer_0" not in compared
    laws = {found.observable: found.value for found in comparison.measurements if found.statistic == "law"}
    assert laws == {"energy_sign": 0, "threshold": 0}
    write_report("Showers", [ModelFiles.of(folder / "model", folder / "validation")], folder / "report")
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "layer_0 3 x 8 [MeV], layer_1 4 x 4 [MeV], layer_2 4 x 2 [MeV]" in page


def test_arrays_without_physics_have_their_sums(folder: Path, tmp_path: Path) -> None:
    stage("calo", dataset(folder / "eplus.hdf5", physics=None), tmp_path / "data", Ranks(), processes=1)
    comparison = validate(
        folder / "model" / "model.pt",
        tmp_path / "data" / "manifest.json",
        Validation.model_validate(QUICK),
        tmp_path,
        Ranks(),
    )
    compared = [found.observable for found in comparison.measurements if found.statistic == "w1"]
    assert compared == [
        "overflow",
        *(f"{n}_{of}" for n in SHAPES for of in ("sum", "count")),
        *(f"rows[{k}]" for k in range(4)),
    ]


def test_another_geometry_is_not_the_model_s(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(folder / "data" / "manifest.json")
    features = [
        column.model_copy(update={"shape": (8, 3)} if column.name == "layer_0" else {}) for column in manifest.features
    ]
    manifest.model_copy(update={"features": features}).write(tmp_path / "manifest.json")
    with pytest.raises(
        InputError, match=r"its features are \(layer_0 \(3, 8\), .*\), those of dataset 'calo' \(layer_0 \(8, 3\)"
    ):
        validate(folder / "model" / "model.pt", tmp_path / "manifest.json", Validation(), tmp_path / "out", Ranks())


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        (
            {"coordinates": [SHOWER | {"layers": ["overflow"]}], "transforms": {}},
            "coordinates",
            "'overflow' is not a feat",
        ),
        ({"coordinates": [SHOWER | {"energy": "p"}]}, "coordinates", "'p' is not a condition that"),
        ({"critic_observables": ["mass"]}, "critic_observables", "'mass' is no observable of the physics"),
        (
            {"critic_features": {"bad": "layer_0 + layer_1"}},
            "critic_features.bad",
            "brings together arrays of 3 x 8 and 4 x 4",
        ),
    ],
)
def test_what_the_training_names_wrongly(folder: Path, changes: dict[str, object], where: str, what: str) -> None:
    settings = Training.model_validate(TRAINING | changes)
    with pytest.raises(InputError, match=what) as caught:
        assemble(settings, 1, folder / "data" / "manifest.json")
    assert caught.value.where == where
    assert caught.value.exit_code == 2


def test_a_feature_is_transformed_once() -> None:
    with pytest.raises(ValueError, match="'layer_0' stands there and in 'transforms'"):
        Training.model_validate(TRAINING | {"transforms": {"layer_0": [{"kind": "standardise"}]}})


@pytest.mark.slow
def test_two_ranks_are_one(folder: Path, tmp_path: Path) -> None:
    """What passes through the coordinates' inverse for derived features, too."""
    settings = Training.model_validate(TRAINING | {"precision": "float64", "steps": 4})
    text = json.dumps({"calo": settings.model_dump(mode="json")})
    manifests = json.dumps({settings.dataset: str(folder / "data" / "manifest.json")})
    script, results = Path(__file__).parent / "training" / "one_rank.py", []
    for world in (1, 2):
        out = tmp_path / f"{world}.pt"
        more = [str(world), str(tmp_path / f"rendezvous-{world}")]
        ranks = [
            subprocess.Popen([sys.executable, str(script), text, manifests, str(out), str(rank), *more])
            for rank in range(world)
        ]
        assert [rank.wait(timeout=300) for rank in ranks] == [0] * world
        results.append(torch.load(out, weights_only=True)["calo"])
    one, two = results
    for name in ("critic gradient", "generator gradient", "critic", "generator", "losses"):
        assert (one[name] - two[name]).abs().max() <= 1e-12 * one[name].abs().max(), name
        assert one[name].abs().max() > 1e-3
