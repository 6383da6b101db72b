"""Toy detectors on PYTHIA's tracks: what they depend on, what is exact in them, and sWeights whose truth is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kantor.cli import main
from kantor.config import SPECIES, Dataset, MuonSource, RichPhysics, RichSource
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.sources import splot
from kantor.data.sources.base import Chunk
from kantor.data.sources.muon import MuonTracks
from kantor.data.sources.rich import RADIATORS, RichTracks
from kantor.data.sources.tracks import MASSES, DetectedTracks, Tracks, collide
from kantor.data.staging import stage
from kantor.errors import ConfigError
from kantor.machine.ranks import Ranks

DLLS = ("DLLe", "DLLmu", "DLLk", "DLLp", "DLLbt")


def rich(**settings: Any) -> RichTracks:
    return RichTracks(RichSource.model_validate({"kind": "rich", **settings}), rows=1000)


def muon(**settings: Any) -> MuonTracks:
    return MuonTracks(MuonSource.model_validate({"kind": "muon", **settings}), rows=1000)


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return collide(12_000, seed=1)


def taken_for(tracks: Tracks, species: str) -> Tracks:
    return Tracks(**{**vars(tracks), "species": np.full(len(tracks.p), SPECIES.index(species))})


def answers(source: DetectedTracks, tracks: Tracks) -> dict[str, np.ndarray]:
    answered = source.respond(tracks, np.random.default_rng(2))
    return dict(zip(source.names, answered.T, strict=True))


# ----------------------------------------------------------------------------------------------------------- kinematics


def test_tracks_are_those_of_pythia(tracks: Tracks) -> None:
    import pythia8mc

    known = pythia8mc.Pythia("", False).particleData
    assert pytest.approx([known.m0(code) for code in (211, 321, 2212, 11, 13)], rel=1e-4) == MASSES
    assert len(tracks.p) == 12_000
    assert 2 < tracks.p.min() < tracks.p.max() < 150
    assert 2 < tracks.eta.min() < tracks.eta.max() < 5
    assert set(tracks.charge) == {-1, 1}
    assert np.array_equal(tracks.n_tracks, tracks.n_tracks.round())
    # A track is one of its collision's, and of the collisions these are those with the more tracks.
    assert tracks.n_tracks.min() >= 1
    assert 25 < tracks.n_tracks.mean() < 45
    shares = np.bincount(tracks.species, minlength=5) / len(tracks.p)
    assert shares == pytest.approx([0.82, 0.11, 0.06, 0.005, 0.001], abs=0.02)


def test_tracks_depend_on_seed_and_block_only() -> None:
    def columns(block: int, **settings: Any) -> Chunk:
        return muon(**{"events": 500, "block": 200, "sweights": True, **settings}).generate(block)

    first, again, shorter = columns(1), columns(1, events=400), columns(2)
    assert all(np.array_equal(values, again.columns[name]) for name, values in first.columns.items())
    assert first.weights is not None
    assert np.array_equal(first.weights, again.weights)  # type: ignore[arg-type]
    assert len(shorter.columns["p"]) == 100
    for other in (columns(0), columns(1, seed=2)):
        assert not np.isin(other.columns["p"], first.columns["p"]).any()


def test_what_is_staged_is_the_same_from_any_number_of_processes(tmp_path: Path) -> None:
    source = {"kind": "rich", "events": 500, "block": 300, "sweights": True, "species": ["kaon", "pion"]}
    dataset = Dataset.model_validate({"source": source, "shard_rows": 300})
    manifests = [stage("rich", dataset, tmp_path / str(n), Ranks(), processes=n) for n in (1, 2)]
    assert [shard.sha256 for shard in manifests[0].shards] == [shard.sha256 for shard in manifests[1].shards]
    manifest = Manifest.read(tmp_path / "1" / "manifest.json")
    assert manifest.feature_names == DLLS
    assert [(column.name, column.unit) for column in manifest.conditions] == [
        ("p", "GeV"),
        ("eta", ""),
        ("nTracks", ""),
        ("charge", ""),
        ("species", ""),
    ]
    assert manifest.generator is not None
    assert manifest.generator.name == "PYTHIA's tracks in a toy of a RICH"
    assert isinstance(manifest.physics, RichPhysics)
    sample = read_split(tmp_path / "1" / "manifest.json", "train")
    assert sample.weights is not None
    assert (sample.weights < 0).any()
    assert set(sample.columns()["species"]) == {0, 1}
    # What is exact stays so in single precision.
    columns = sample.columns()
    assert (columns["DLLp"] == columns["DLLbt"])[columns["p"] < 17].all()


# ----------------------------------------------------------------------------------------------------------------- RICH


@pytest.mark.parametrize("species", SPECIES)
def test_spikes_of_the_likelihoods(tracks: Tracks, species: str) -> None:
    found = answers(rich(), taken_for(tracks, species))
    thresholds = MASSES / np.sqrt(RADIATORS[0].index ** 2 - 1)
    # The gas with the lower index has its thresholds above.
    for name, mass in (("DLLk", thresholds[1]), ("DLLp", thresholds[2])):
        no_light = tracks.p < mass
        assert np.array_equal(found[name][no_light], found["DLLbt"][no_light])
    in_both = (tracks.p > 45) & (tracks.theta > 0.026) & (tracks.theta < 0.119)
    assert (found["DLLp"] != found["DLLbt"])[in_both].all()
    outside = tracks.theta < 0.015
    assert outside.sum() > 30
    assert not any(found[name][outside].any() for name in DLLS)


def test_kaons_are_told_from_pions(tracks: Tracks) -> None:
    """Efficiency and misidentification at DLLk > 0, as the radiators were chosen for."""
    kaons, pions = (answers(rich(), taken_for(tracks, species))["DLLk"] for species in ("kaon", "pion"))
    for low, high, efficiency, mistaken in ((5, 10, 0.96, 0.04), (10, 20, 0.95, 0.015), (20, 40, 0.90, 0.02)):
        inside = (tracks.p > low) & (tracks.p < high)
        assert (kaons > 0)[inside].mean() == pytest.approx(efficiency, abs=0.02)
        assert (pions > 0)[inside].mean() == pytest.approx(mistaken, abs=0.015)


def test_likelihoods_are_likelihoods(tracks: Tracks) -> None:
    """The mean of L_x / L_pi over pions is 1 for any x; its spread has to be small for that to be seen."""
    # Just above threshold and in one of the radiators, so that there are few photons.
    soft = (tracks.p > 2.7) & (tracks.p < 3.2) & (tracks.theta > 0.121) & (tracks.theta < 0.29)
    ratio = np.exp(answers(rich(), taken_for(tracks, "pion"))["DLLbt"][soft])
    assert soft.sum() > 250
    assert ratio.std() > 0.2
    assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(soft.sum()))


# ----------------------------------------------------------------------------------------------------------------- muon


def test_is_muon_is_binary_and_has_a_likelihood(tracks: Tracks) -> None:
    found = {species: answers(muon(), taken_for(tracks, species)) for species in SPECIES}
    for each in found.values():
        assert set(each["IsMuon"]) == {0, 1}
        assert np.array_equal(each["MuonDLL"] == 0, each["IsMuon"] == 0)
        assert not each["IsMuon"][(tracks.p < 3) | (tracks.theta < 0.02)].any()
    inside = (tracks.p > 10) & (tracks.theta > 0.03) & (tracks.theta < 0.25)
    share = {species: each["IsMuon"][inside].mean() for species, each in found.items()}
    # Four hits of 98 % each; hadrons by decays in flight and chance.
    assert share["muon"] == pytest.approx(0.98**4, abs=0.02)
    assert share["proton"] < share["kaon"] < 0.05
    both = [found[species]["MuonDLL"][found[species]["IsMuon"] == 1] for species in ("muon", "proton")]
    assert np.median(both[0]) > 5 > np.median(both[1])


# ------------------------------------------------------------------------------------------------------------- sWeights


def test_sweights_are_those_of_the_events_formula() -> None:
    """With sums over events, as the paper has them; both need enough events."""
    rng = np.random.default_rng(3)
    is_background = rng.random(200_000) < 0.4
    masses = splot.draw_masses(is_background, rng)
    f = splot.densities(masses)
    yields = len(masses) * np.array([0.6, 0.4])
    density = yields @ f
    covariance = np.linalg.inv((f / density**2) @ f.T)
    assert splot.sweights(masses, 0.4) == pytest.approx(covariance[0] @ f / density, abs=0.01)


def test_sweights_of_signal_add_up_to_it_and_those_of_background_to_nothing() -> None:
    rng = np.random.default_rng(4)
    for is_background, mean in ((False, 1.0), (True, 0.0)):
        weights = splot.sweights(splot.draw_masses(np.full(100_000, is_background), rng), 0.3)
        assert weights.mean() == pytest.approx(mean, abs=4 * weights.std() / np.sqrt(len(weights)))
    assert weights.min() < -0.1


def test_the_weighted_distribution_is_the_clean_one() -> None:
    """Means of features and conditions, and efficiencies: weighted as clean, and not as unweighted."""
    clean = rich(events=8000, block=8000, species="pion", seed=5).generate(0).columns
    mixed = rich(events=8000, block=8000, species="pion", seed=6, sweights=True, background=0.4).generate(0)
    weights = mixed.weights
    assert weights is not None
    assert weights.sum() == pytest.approx(0.6 * 8000, abs=4 * np.sqrt((weights**2).sum()))
    statistics = {
        "misidentified": lambda columns: columns["DLLk"] > 0,
        "DLLp": lambda columns: columns["DLLp"],
        "fast": lambda columns: columns["p"] > 20,
        "correlated": lambda columns: (columns["DLLe"] > 0) & (columns["p"] < 10),
    }
    for name, statistic in statistics.items():
        truth, values = statistic(clean).astype(float), statistic(mixed.columns).astype(float)
        mean = np.average(values, weights=weights)
        # Linear propagation for the weighted mean.
        error = np.hypot(
            truth.std() / np.sqrt(len(truth)), np.sqrt((weights**2 * (values - mean) ** 2).sum()) / weights.sum()
        )
        assert abs(mean - truth.mean()) < 4 * error, name
        assert abs(values.mean() - truth.mean()) > 4 * error, name


def test_without_sweights_there_is_no_background() -> None:
    chunk = rich(events=100, block=100, species="kaon").generate(0)
    assert chunk.weights is None
    assert list(chunk.columns) == [*DLLS, "p", "eta", "nTracks", "charge"]


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "settings, message, cure",
    [
        ("sweights: true, background: 0", "there is no background to be weighted away", "raise 'background'"),
        ("background: 0.2", "nothing tells it from the rest without weights", "say sweights: true"),
        ("background: 1.5", "background = 1.5: Input should be less than 1", "config/README.md"),
        ("events: 0", "events = 0: Input should be greater than 0", "config/README.md"),
        ("species: koan", "species names 'koan'", "did you mean 'kaon'?"),
        ("species: [pion, up]", "species names 'up'", "choose one of: pion, kaon, proton"),
        ("species: [pion, pion]", "names each once", "leave it out"),
        ("species: []", "at least one", "leave it out"),
        ("seed: 900", "less than or equal to 899", "config/README.md"),
        ("sweight: true", "unknown key", "did you mean 'sweights'?"),
        ("events: 2_000_000, block: 1", "more than a million blocks", "raise 'block'"),
    ],
)
def test_bad_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, message: str, cure: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
datasets: {{ d: {{ source: {{ kind: rich, {settings} }} }} }}
trainings: {{ t: {{ dataset: d, objective: {{ kind: wgan_gp }} }} }}
targets: {{ run: {{ trainings: [t] }} }}
"""
    )
    assert main(["config", "--check", str(path)]) == ConfigError("").exit_code == 2
    said = capsys.readouterr().err
    assert message in said
    assert cure in said
