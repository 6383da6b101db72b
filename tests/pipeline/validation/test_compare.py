"""A comparison from files to files: what it finds, on any number of ranks, and what it refuses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from kantor.config import Dataset, Training, Validation
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.errors import InputError
from kantor.machine.files import sha256
from kantor.machine.ranks import Ranks
from kantor.models.bundle import Bundle, Drawn
from kantor.results import Comparison, Measurement
from kantor.training.assembly import assemble
from kantor.validation.compare import validate
from kantor.validation.histograms import Figures

QUICK = Validation(rows=500, splits=5, replicas=20, bins=10)
DIS = Training.model_validate(
    {
        "dataset": "dis",
        "transforms": {"pz": [{"kind": "log_distance", "edge": 50.0}, {"kind": "standardise"}]},
        "generator": {"latent": 4, "width": 16, "depth": 2},
        "critic": {"width": 16, "depth": 2},
        "objective": {"kind": "wgan_gp"},
    }
)


@pytest.fixture(scope="module")
def dis_model(dis_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that has learned nothing."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    assemble(DIS, 1, dis_manifest).bundle("untrained", {}).save(path)
    return path


@pytest.fixture(scope="module")
def weighted_model(weighted_manifest: Path, small_training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    assemble(small_training, 1, weighted_manifest).bundle("weighted", {}).save(path)
    return path


@pytest.fixture(scope="module")
def compared(dis_model: Path, dis_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared")
    validate(dis_model, dis_manifest, QUICK, out, Ranks())
    return out


def by_name(comparison: Comparison) -> dict[tuple[str, str | None], Measurement]:
    return {(found.statistic, found.observable): found for found in comparison.measurements}


# ----------------------------------------------------------------------------------------------------- what it finds


def test_everything_is_measured_with_uncertainty_and_reference(compared: Path) -> None:
    comparison = Comparison.read(compared / "metrics.json")
    found = by_name(comparison)
    observables = ["px", "py", "pz", "energy", "pt", "theta", "phi", "q2", "x", "y", "w2"]
    assert {("energy_distance", None), ("c2st_auc", None), ("correlation", None)} <= set(found)
    assert {(statistic, name) for statistic in ("w1", "ks") for name in observables} <= set(found)
    assert {law for name, law in found if name == "law"} >= {"pz_above_beam", "q2_below_cut", "x_outside", "y_outside"}
    for each in found.values():
        assert each.low <= each.value <= each.high
        # Samples without overlap have a KS of 1 in every replica.
        assert each.low < each.high or (each.statistic, each.value) == ("ks", 1.0)
        assert each.reference_low <= each.reference <= each.reference_high
    assert ("redrawn", None) not in found  # no cuts are declared
    assert comparison.rows == comparison.effective_rows == 500
    assert (comparison.training, comparison.seed, comparison.dataset) == ("untrained", 1, "dis")
    assert comparison.config["splits"] == 5
    assert comparison.checksums.keys() >= {"model.pt"}
    assert comparison.generation_rate > 1000


def test_an_untrained_model_is_told_apart_but_obeys_its_transform(compared: Path) -> None:
    found = by_name(Comparison.read(compared / "metrics.json"))
    assert found["c2st_auc", None].value > 0.8
    distance = found["energy_distance", None]
    assert distance.low > 5 * distance.reference_high
    assert distance.p_value == pytest.approx(1 / 301)
    below_cut = found["law", "q2_below_cut"]
    assert below_cut.low > below_cut.reference_high == pytest.approx(0.0074, abs=1e-4)
    # log(E_beam - pz) lets no electron overtake the beam.
    assert found["law", "pz_above_beam"].value == 0
    assert found["w1", "q2"].unit == "decades"


def test_a_perfect_model_is_as_truth(dis_manifest: Path, tmp_path: Path, truth_as_model: Callable[..., Path]) -> None:
    found = by_name(validate(truth_as_model("train"), dis_manifest, QUICK, tmp_path, Ranks()))
    joint = [found[name, None] for name in ("energy_distance", "c2st_auc")]
    assert all(each.p_value is not None and each.p_value > 0.01 for each in joint)
    for each in found.values():
        spread = np.hypot(each.high - each.low, each.reference_high - each.reference_low) / 2
        assert each.value - each.reference < 4 * spread


def test_a_small_shift_is_seen_where_it_is(
    dis_manifest: Path, tmp_path: Path, truth_as_model: Callable[..., Path]
) -> None:
    model = truth_as_model("train", lambda rows: rows * np.array([1, 1.5, 1]))
    found = by_name(validate(model, dis_manifest, QUICK, tmp_path, Ranks()))
    shifted, same = (found["ks", name].p_value for name in ("py", "px"))
    assert shifted is not None
    assert same is not None
    assert shifted < 0.01 < same
    assert found["w1", "py"].low > found["w1", "py"].reference_high


def test_how_many_events_were_drawn_again_is_measured(dis_model: Path, dis_manifest: Path, tmp_path: Path) -> None:
    """A generator that has learned nothing is far below any Q2 of the data, but not below every cut."""
    q2 = {"q2": "100 * (sqrt(px**2 + py**2 + pz**2) - pz)"}
    cut = replace(Bundle.load(dis_model), cuts=["q2 > 0.05"], quantities=q2)
    cut.save(tmp_path / "model.pt")
    redrawn = by_name(validate(tmp_path / "model.pt", dis_manifest, QUICK, tmp_path / "out", Ranks()))["redrawn", None]
    px, py, pz = Bundle.load(dis_model).generate(500, seed=QUICK.seed).astype(np.float64).T
    assert redrawn.value == np.mean(100 * (np.sqrt(px**2 + py**2 + pz**2) - pz) <= 0.05)
    assert 0.1 < redrawn.low < redrawn.value < redrawn.high < 0.9
    assert (redrawn.reference, redrawn.interval) == (0, "95 %")


@pytest.fixture
def truth_as_model(dis_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A stand-in for a model: it generates true events of another split, perhaps changed."""

    def make(split: str, change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows) -> Path:
        features = change(read_split(dis_manifest, split).features).astype(np.float32)  # type: ignore[arg-type]
        real = assemble(DIS, 1, dis_manifest).bundle("truth", {})

        def draw(self: Bundle, rows: int, conditions: np.ndarray, *, seed: int, start: int = 0) -> Drawn:
            return Drawn(features[start : start + rows], np.zeros(rows, bool))

        monkeypatch.setattr(Bundle, "draw", draw)
        real.save(tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return make


def test_figures_come_back_as_they_were(compared: Path) -> None:
    figures = Figures.read(compared / "validation.h5")
    by_observable = {each.observable.name: each for each in figures.histograms}
    assert list(by_observable) == ["px", "py", "pz", "energy", "pt", "theta", "phi", "q2", "x", "y", "w2"]
    q2 = by_observable["q2"]
    assert (q2.observable.label, q2.observable.unit, q2.observable.scale) == ("Q²", "GeV²", "log")
    assert np.allclose(np.diff(np.log10(q2.edges)), np.diff(np.log10(q2.edges))[0])
    for each in figures.histograms:
        assert each.truth.shape == each.generated.shape == (2, 12)
        assert each.truth[0].sum() == 500
        assert np.array_equal(*each.truth)
    assert [(plane.x, plane.y) for plane in figures.planes] == [("x", "q2")]
    assert figures.planes[0].truth.shape == (10, 10)
    assert figures.correlations.truth.shape == (11, 11)


# ------------------------------------------------------------------------------------------- weights and conditions


def test_signed_weights_and_conditions(weighted_model: Path, weighted_manifest: Path, tmp_path: Path) -> None:
    settings = QUICK.model_copy(
        update={"observables": {"weighted": {"ratio": "response / momentum", "root": "sqrt(response - 2)"}}}
    )
    comparison = validate(weighted_model, weighted_manifest, settings, tmp_path, Ranks())
    found = by_name(comparison)
    assert comparison.rows == 200
    assert comparison.effective_rows < 150
    assert np.isfinite([each.value for each in found.values()]).all()
    # The root of a negative number is left out, and counted.
    undefined = found["undefined", "root"]
    assert 0 < undefined.reference < 1
    assert undefined.label == "root not defined"
    means = comparison.weighted_means
    assert set(means) == {"keep", "clip", "drop"}
    assert means["clip"] == means["drop"]
    assert means["keep"]["response"] != means["clip"]["response"]
    assert Comparison.read(tmp_path / "metrics.json") == comparison


def test_unweighted_data_have_no_policies(compared: Path) -> None:
    assert Comparison.read(compared / "metrics.json").weighted_means == {}


# -------------------------------------------------------------------------------------------------------------- ranks

_ON_RANKS = """
import sys
from pathlib import Path
from kantor.config import Validation, parse
from kantor.machine.ranks import world
from kantor.validation.compare import validate
model, manifest, out = map(Path, sys.argv[1:4])
validate(model, manifest, parse(Validation, sys.argv[4], ""), out, world(int(sys.argv[5])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_gives_the_same_bits(
    size: int, compared: Path, dis_model: Path, dis_manifest: Path, tmp_path: Path
) -> None:
    launcher = Path(sys.executable).with_name("mpiexec")
    if not launcher.exists():
        pytest.skip("no MPI library from PyPI here")
    arguments = [dis_model, dis_manifest, tmp_path, QUICK.canonical(), size]
    # What the caller says about threads must not matter either.
    environment = os.environ | {"OMP_NUM_THREADS": str(size)}
    command = [str(launcher), "-n", str(size), sys.executable, "-c", _ON_RANKS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    alone, together = (json.loads((where / "metrics.json").read_text()) for where in (compared, tmp_path))
    assert together["measurements"] == alone["measurements"]
    assert (alone["ranks"], together["ranks"]) == (1, size)
    assert contents(tmp_path / "validation.h5") == contents(compared / "validation.h5")


def contents(path: Path) -> dict[str, bytes]:
    """Every array of an HDF5 file as bytes, so that NaN equals NaN."""
    found: dict[str, bytes] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, each: found.update({name: each[()].tobytes()}) if isinstance(each, h5py.Dataset) else None
        )
    return found


# ------------------------------------------------------------------------------------------------------- bad input


def test_another_dataset_is_refused(dis_model: Path, weighted_manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its features are \(px, py, pz\), those of dataset 'weighted'"):
        validate(dis_model, weighted_manifest, QUICK, tmp_path, Ranks())


def test_weights_that_leave_nothing_to_compare_are_refused(
    weighted_manifest: Path, weighted_model: Path, tmp_path: Path
) -> None:
    """As staged they are enough; in the halves of the test split they cancel."""
    content = Manifest.read(weighted_manifest)
    shards = []
    for shard in content.shards:
        path = tmp_path / shard.file
        path.write_bytes((weighted_manifest.parent / shard.file).read_bytes())
        with h5py.File(path, "r+") as file:
            weights = file["weights"]
            assert isinstance(weights, h5py.Dataset)
            weights[...] = np.where(np.arange(shard.rows) % 2 == 0, 1.0, -0.95)
        data = path.read_bytes()
        shards.append(shard.model_copy(update={"bytes": len(data), "sha256": sha256(path)}))
    content.model_copy(update={"shards": shards}).write(tmp_path / "manifest.json")
    with pytest.raises(InputError, match=r"a half of the test split has .* effective rows.*; at least 10 are needed"):
        validate(weighted_model, tmp_path / "manifest.json", QUICK, tmp_path, Ranks())
    assert not (tmp_path / "metrics.json").exists()


def test_a_constant_feature_is_left_out_and_said(tmp_path: Path) -> None:
    """A muon's mass beside its momentum: the joint distance is that of the momentum, of order one, not of rounding."""
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "muons.npz", pt=np.exp(rng.normal(size=2000)), m=np.full(2000, 0.1056583745))
    source = {"kind": "file", "paths": [str(tmp_path / "muons.npz")], "features": ["pt", "m"]}
    stage("muons", Dataset.model_validate({"source": source}), tmp_path / "staged", Ranks(), processes=1)
    training = {
        "dataset": "muons",
        "transforms": {"pt": [{"kind": "log"}, {"kind": "standardise"}]},
        "generator": {"latent": 4, "width": 8, "depth": 1},
        "objective": {"kind": "wgan_gp"},
        "batch": 32,
    }
    assembly = assemble(Training.model_validate(training), 1, tmp_path / "staged" / "manifest.json")
    assert assembly.features.constant_columns == ("m",)
    bundle = assembly.bundle("untrained", {})
    bundle.save(tmp_path / "model.pt")
    events = Bundle.load(tmp_path / "model.pt").generate(100, seed=1)
    assert np.array_equal(events[:, 1], np.full(100, np.float32(0.1056583745)))
    comparison = validate(tmp_path / "model.pt", tmp_path / "staged" / "manifest.json", QUICK, tmp_path, Ranks())
    assert comparison.constant == ["m"]
    found = by_name(comparison)
    assert 0 < found["energy_distance", None].value < 10
    assert (found["w1", "m"].value, found["ks", "m"].value) == (0, 0)


def test_times_are_kept_from_files_to_the_comparison(tmp_path: Path) -> None:
    """In float32 they would be 128 s apart; what is made of them, here their difference, is as fine as they are."""
    rng = np.random.default_rng(1)
    start = 1.7e9 + rng.uniform(0, 300, 2000)
    np.savez(tmp_path / "hits.npz", start=start, time=start + rng.exponential(5, 2000), charge=rng.normal(size=2000))
    features = {"time": "time", "charge": "charge"}
    source = {"kind": "file", "paths": [str(tmp_path / "hits.npz")], "features": features, "conditions": ["start"]}
    manifest = tmp_path / "staged" / "manifest.json"
    stage("hits", Dataset.model_validate({"source": source}), manifest.parent, Ranks(), processes=1)
    training = {
        "dataset": "hits",
        "transforms": {"time": [{"kind": "log_distance", "edge": 1.7e9, "side": "above"}, {"kind": "standardise"}]},
        "critic_features": {"delay": "time - start"},
        "generator": {"latent": 4, "width": 8, "depth": 1},
        "objective": {"kind": "wgan_gp"},
        "batch": 32,
    }
    assembly = assemble(Training.model_validate(training), 1, manifest)
    delay = assembly.rows.real[:, 2] * assembly.view.deviation + assembly.view.mean
    train = read_split(manifest, "train").columns()
    # The chain of `time` is in float32, as the networks are: exp(5) carries some 1e-5 of a rounding.
    np.testing.assert_allclose(delay, train["time"] - train["start"], atol=1e-3)

    assembly.bundle("untrained", {}).save(tmp_path / "model.pt")
    model = Bundle.load(tmp_path / "model.pt")
    some = np.linspace(1.7e9, 1.7e9 + 300, 100)[:, None]
    events = model.generate(100, some, seed=1)
    assert events.dtype == np.float64
    assert events[:, 0].min() > 1.7e9
    assert len(np.unique(events[:, 0])) == 100
    assert np.array_equal(events[:, 1], model.generate_stored(100, (some - 1.7e9).astype(np.float32), seed=1)[:, 1])

    settings = QUICK.model_copy(update={"observables": {"hits": {"delay": "time - start"}}})
    comparison = validate(tmp_path / "model.pt", manifest, settings, tmp_path, Ranks())
    assert comparison.constant == []
    found = by_name(comparison)
    assert found["w1", "time"].label == "W1 of time − 1700000000"
    assert found["w1", "delay"].reference < 2
    assert found["w1", "delay"].value > 10


def test_values_that_are_not_finite_are_counted(
    dis_manifest: Path, tmp_path: Path, truth_as_model: Callable[..., Path]
) -> None:
    model = truth_as_model("train", lambda rows: np.where(np.arange(len(rows))[:, None] < 7, np.nan, rows))
    with pytest.raises(InputError, match="NaN or infinity in 7 of 500 events"):
        validate(model, dis_manifest, QUICK, tmp_path, Ranks())
    assert not (tmp_path / "metrics.json").exists()


def test_a_place_that_cannot_be_written_is_refused_at_once(dis_model: Path, dis_manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        validate(dis_model, dis_manifest, QUICK, tmp_path / "file" / "out", Ranks())


def test_physics_needs_momenta(
    weighted_manifest: Path, weighted_model: Path, tmp_path: Path, dis_manifest: Path
) -> None:
    content = Manifest.read(weighted_manifest)
    wrong = content.model_copy(update={"physics": Manifest.read(dis_manifest).physics})
    wrong.write(tmp_path / "manifest.json")
    for shard in content.shards:
        (tmp_path / shard.file).write_bytes((weighted_manifest.parent / shard.file).read_bytes())
    with pytest.raises(InputError, match="its physics is 'dis', but it has no feature 'px'"):
        validate(weighted_model, tmp_path / "manifest.json", QUICK, tmp_path, Ranks())


def test_damaged_figures_are_named(tmp_path: Path) -> None:
    (tmp_path / "validation.h5").write_bytes(b"not HDF5")
    with pytest.raises(InputError, match=r"validation\.h5: cannot be read"):
        Figures.read(tmp_path / "validation.h5")
