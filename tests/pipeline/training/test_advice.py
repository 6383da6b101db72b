"""Advice: seen where there is something, silent where there is not, and its cures are settings that cure."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kantor.cli import main
from kantor.config import Dataset, Training
from kantor.config.presets import merged
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks
from kantor.training.advice import Advice, advise
from kantor.training.assembly import assemble
from kantor.training.job import Job
from kantor.training.worker import work

ROWS = 20_000
RNG = np.random.default_rng(3)
SMALL = {"latent": 4, "width": 8, "depth": 1}
COLUMNS = {
    "normal": RNG.normal(size=ROWS),
    "exponential": RNG.exponential(size=ROWS),
    "uniform": RNG.uniform(size=ROWS),
    "layers": RNG.integers(0, 3, ROWS).astype(float),
    "one": np.ones(ROWS),
    "below": 50 - np.exp(RNG.normal(-1, 1.5, ROWS)),
    "above": np.exp(RNG.normal(0, 1.5, ROWS)) - 3,
    "tails": RNG.standard_cauchy(ROWS),
    "spike": np.where(RNG.random(ROWS) < 0.3, 0.0, 0.5 + RNG.gamma(3, 1, ROWS)),
    "pt": np.exp(RNG.normal(0, 0.3, ROWS)),
    "pz": RNG.uniform(0.001, 40, ROWS),
}
QUIET = {"normal", "exponential", "uniform", "layers", "one", "pt", "pz"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("advice")
    np.savez(directory / "events.npz", allow_pickle=False, **COLUMNS)
    source = {"kind": "file", "paths": [str(directory / "events.npz")], "features": list(COLUMNS)}
    stage("toy", Dataset.model_validate({"source": source}), directory, Ranks(), processes=1)
    return directory / "manifest.json"


def settings(dataset: str = "toy", **changes: Any) -> dict[str, Any]:
    return {"dataset": dataset, "objective": {"kind": "wgan_gp"}, "generator": SMALL, "batch": 64} | changes


def advice(manifest: Path, training: dict[str, Any]) -> dict[str, Advice]:
    found = advise(Training.model_validate(training), Manifest.read(manifest), read_split(manifest, "train"))
    return {each.field: each for each in found}


def test_what_hides_an_edge_is_named_with_its_cure(manifest: Path) -> None:
    found = advice(manifest, settings())
    assert set(found) == {f"column '{name}'" for name in COLUMNS if name not in QUIET}
    chains = {name: found[f"column '{name}'"].cure["transforms"][name][0] for name in COLUMNS if name not in QUIET}
    assert chains["below"] == {"kind": "log_distance", "edge": 50.0, "side": "below"}
    assert chains["above"] == {"kind": "log_distance", "edge": -3.0, "side": "above"}
    assert chains["tails"] == {"kind": "quantile_normal"}
    assert (chains["spike"]["kind"], chains["spike"]["value"]) == ("dequantise", 0.0)
    assert "are exactly 0, a spike" in found["column 'spike'"].seen
    assert "quantiles 0, 0.1, 25, 50, 75, 99.9, 100 %: " in found["column 'below'"].seen


def test_the_cures_cure(manifest: Path) -> None:
    training = settings(critic_features={"slope": "pt / pz", "far": "above * 2"})
    found = advice(manifest, training)
    assert found["critic_features.slope"].cure == {"critic_features": {"slope": "pz / pt"}}
    assert "wrong way up" in found["critic_features.slope"].seen
    assert found["critic_features.far"].cure["critic_features"]["log_far"].startswith("log(maximum(far + 6, ")
    for each in found.values():
        training = merged(training, each.cure)
    assert advice(manifest, training) == {}
    assert len(assemble(Training.model_validate(training), 1, manifest).advice) == 0


def test_coordinates_and_chains_are_the_user_s(manifest: Path) -> None:
    mapped = {"kind": "plain", "columns": ["below", "tails"]}
    found = advice(
        manifest, settings(coordinates=[mapped], transforms={name: [{"kind": "standardise"}] for name in ("above",)})
    )
    assert set(found) == {"column 'spike'"}


def test_an_edge_in_q2_is_cured_by_coordinates(dis_manifest: Path) -> None:
    training = settings("dis", transforms={"pz": [{"kind": "log_distance", "edge": 50.0}]})
    (found,) = advice(dis_manifest, training).values()
    assert found.field == "Q2 of the physics"
    assert "take pz out of 'transforms'" in found.seen
    cured = settings("dis") | found.cure
    assert advice(dis_manifest, cured) == {}
    assert assemble(Training.model_validate(cured), 1, dis_manifest).features.size == 2


def test_a_training_says_it_once(dis_manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = Training.model_validate(settings("dis", steps=2, evaluate_rows=100, critic={"width": 8, "depth": 1}))
    job = Job("hidden", 1, training, dis_manifest, tmp_path, "code", workers=1)
    with caplog.at_level(logging.WARNING, "kantor"):
        work(job)
        said = [record.message for record in caplog.records if "may hide an edge" in record.message]
        work(job)  # what is finished is not begun again
    assert len(said) == 2
    assert len([record for record in caplog.records if "may hide an edge" in record.message]) == 2
    assert said[0].startswith("hidden: column 'pz' may hide an edge: ")
    assert json.loads(said[0].split("cure: ")[1])["transforms"]["pz"][0]["edge"] == 50


def test_the_command_prints_yaml(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "datasets": {"toy": {"source": {"kind": "ring"}}, "other": {"source": {"kind": "ring"}}},
        "trainings": {"t": settings(), "elsewhere": settings("other")},
        "targets": {"run": {"trainings": ["t"]}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["config", "--suggest", str(tmp_path / "config.yaml"), "--manifest", str(manifest)]) == 0
    said = capsys.readouterr().out
    assert said.count("# t, column") == len(COLUMNS) - len(QUIET)
    assert "elsewhere" not in said
    # What is said stands in comments: each part is YAML as it is.
    parts = [yaml.safe_load(part) for part in said.split("\n\n")]
    cures = [part["trainings"]["t"]["transforms"] for part in parts if part]
    assert {"below": [{"kind": "log_distance", "edge": 50.0, "side": "below"}, {"kind": "standardise"}]} in cures
    assert main(["config", "--suggest", str(tmp_path / "config.yaml")]) == 2
    assert "add --manifest" in capsys.readouterr().err
