"""Files of other people's layouts (docs/pid.md), read as the page says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kantor.cli import main
from kantor.config import Dataset
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks

PAGE = Path(__file__).parents[4] / "docs" / "pid.md"
DATASETS: dict[str, dict[str, Any]] = {
    name: settings
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name, settings in yaml.safe_load(block).get("datasets", {}).items()
}
ROWS = 120
RICH = ["RichDLLe", "RichDLLk", "RichDLLmu", "RichDLLp", "RichDLLbt"]
GIVEN = ["Brunel_P", "Brunel_ETA", "nTracks_Brunel"]


def numbers(columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, columns))


def read(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """All rows of a dataset of the page by column, sorted by the first, and their weights."""
    monkeypatch.chdir(directory)
    dataset = Dataset.model_validate(DATASETS[name])
    manifest = stage(name, dataset, directory / "out", Ranks(), processes=1)
    assert manifest.physics == dataset.physics
    samples = [read_split(directory / "out" / "manifest.json", split) for split in ("train", "validation", "test")]
    parts = [sample.columns() for sample in samples]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.argsort(next(iter(columns.values())), kind="stable")
    weights = (
        None if samples[0].weights is None else np.concatenate([s.weights for s in samples if s.weights is not None])
    )
    return {key: values[order] for key, values in columns.items()}, None if weights is None else weights[order]


def test_lhcb_s_rich_gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tabs, an index before the columns, more columns than are read, weights of either sign."""
    names = [*RICH, *GIVEN, "probe_Brunel_PT", "probe_sWeight"]
    tables = {}
    for seed, path in enumerate(DATASETS["lhcb_kaons"]["source"]["paths"]):
        table = tables[path] = numbers(len(names), seed)
        table[:, -1] += 0.5
        rows = ["\t".join([str(row), *map(repr, map(float, values))]) for row, values in enumerate(table)]
        (tmp_path / path).write_text("\n".join(["\t".join(["", *names]), *rows]) + "\n")
    found, weights = read("lhcb_kaons", tmp_path, monkeypatch)
    truth = np.concatenate(list(tables.values())).astype(np.float32)
    truth = truth[np.argsort(truth[:, 0])]
    assert list(found) == ["DLLe", "DLLk", "DLLmu", "DLLp", "DLLbt", "p", "eta", "nTracks"]
    for column, values in enumerate(found.values()):
        assert np.array_equal(values, truth[:, column])
    assert weights is not None
    assert np.array_equal(weights, truth[:, -1])
    assert (weights < 0).any()


def test_mcrich(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, table = [*RICH, *GIVEN], numbers(8)
    words = np.random.default_rng(1).choice(["Kaon", "Muon", "Pion", "Proton", "Electron", "Ghost"], ROWS)
    rows = [",".join([*map(repr, map(float, values)), word]) for values, word in zip(table, words, strict=True)]
    (tmp_path / "MCRICH_train.csv").write_text("\n".join([",".join([*names, "Signal"]), *rows]) + "\n")
    found, weights = read("mcrich", tmp_path, monkeypatch)
    assert weights is None
    table = table[np.argsort(table[:, 0])].astype(np.float32)
    assert all(np.array_equal(found[name], table[:, column]) for column, name in enumerate(names))


def test_fat_gan_s_tape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E,px,py,pz without a header; the first line is an event."""
    momenta = numbers(3) + np.array([0, 0, 45])
    energy = np.linalg.norm(momenta, axis=1)
    np.savetxt(tmp_path / "tape2.txt", np.column_stack([energy, momenta]), delimiter=",", fmt="%.8g")
    found, _ = read("tape2", tmp_path, monkeypatch)
    assert list(found) == ["px", "py", "pz"]
    momenta = momenta[np.argsort(momenta[:, 0])]
    assert len(found["px"]) == ROWS
    assert np.stack(list(found.values()), axis=1) == pytest.approx(momenta, rel=1e-6, abs=1e-6)


def test_magic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = abs(numbers(10))
    rows = [",".join([*(f"{value:.4f}" for value in values), "gh"[i % 2]]) for i, values in enumerate(table)]
    (tmp_path / "magic.dat").write_text("\n".join(rows) + "\n")
    found, _ = read("magic", tmp_path, monkeypatch)
    table = table[np.argsort(table[:, 0].round(4), kind="stable")]
    assert np.stack(list(found.values()), axis=1) == pytest.approx(table, abs=6e-5)


def test_a_word_is_no_condition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("RichDLLk,Signal\n1.0,Kaon\n2.0,Pion\n")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
datasets: {{ d: {{ source: {{ kind: file, paths: [{tmp_path}/a.csv], features: [RichDLLk], conditions: [Signal] }} }} }}
trainings: {{ t: {{ dataset: d, objective: {{ kind: wgan_gp }} }} }}
targets: {{ run: {{ trainings: [t] }} }}
"""
    )
    assert main(["stage", "--config", str(path), "--dataset", "d", "--out", str(tmp_path / "out")]) == 2
    assert "Signal" in capsys.readouterr().err
