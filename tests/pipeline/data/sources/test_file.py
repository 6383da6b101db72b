"""The user's own files: which they are, and that each is read once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kantor.cli import main
from kantor.config import FileSource
from kantor.data.samples import read_split
from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import Table


def second(table: Table, name: str = "second.npz") -> Path:
    table.columns = {name: values + 1 for name, values in table.columns.items()}
    return table.write(table.directory / name)


def test_a_pattern_is_its_files(table: Table) -> None:
    other = second(table)
    manifest = table.stage(table.path, other)
    listed = [shard.sha256 for shard in manifest.shards]
    # Sorted by name, the second comes first.
    manifest = table.stage(table.directory / "*.npz", processes=2)
    assert [shard.rows for shard in manifest.shards] == [1000, 1000]
    assert [shard.sha256 for shard in manifest.shards] == listed[::-1]
    assert manifest.source["paths"] == [str(other), str(table.path)]


def test_files_are_those_of_today(table: Table) -> None:
    source = table.dataset(table.directory / "*.npz").source
    assert source.files == [str(table.path)]
    other = second(table)
    assert source.files == [str(other), str(table.path)]


def test_an_address_is_no_file_here(table: Table) -> None:
    address = "root://host//store/a.root"
    source = FileSource(kind="file", paths=[address, str(table.path)], features={"x": "x"})
    assert source.files == [str(table.path)]
    assert source.resolved().paths == [address, str(table.path)]


def test_a_folder_of_parquet(table: Table) -> None:
    folder = table.directory / "events"
    for part in range(3):
        (folder / f"day={part}").mkdir(parents=True)
        pq.write_table(pa.table(table.columns), folder / f"day={part}" / "0.parquet")
    assert table.stage(folder).rows == 3000


@pytest.mark.parametrize("how", ["again", "dot", "absolute", "symbolic", "hard", "pattern"])
def test_a_file_listed_twice_is_refused(table: Table, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(table.directory)
    Path("link.npz").symlink_to("table.npz")
    os.link("table.npz", "hard.npz")
    other = {"again": "table.npz", "dot": "./table.npz", "absolute": str(table.path), "symbolic": "link.npz"}
    paths = ["table.npz", other.get(how, "hard.npz" if how == "hard" else "*.npz")]
    with pytest.raises(InputError, match=r"twice|the same file as") as caught:
        table.stage(paths=paths)
    assert caught.value.exit_code == 2
    assert not table.out.exists()


def test_a_pattern_without_a_match_leaves_nothing(table: Table) -> None:
    with pytest.raises(InputError, match="no file matches this pattern"):
        table.stage(table.directory / "*.root")
    assert not table.out.exists()


def test_elements_are_features(table: Table) -> None:
    path = table.directory / "showers.npy"
    np.save(path, np.arange(400.0).reshape(100, 4))
    features = {"first": "array[0]", "last": "array[3]"}
    table.stage(path, features=features, conditions={}, weight=None, units={})
    sample = read_split(table.out / "manifest.json", "train")
    assert np.array_equal(sample.features[:, 1], sample.features[:, 0] + 3)


@pytest.mark.parametrize(
    "column, name",
    [
        ("MissingET/MissingET.MET", "MissingET_MissingET_MET"),
        ("b [mm]", "b_mm"),
        ("showers[0]", "showers_0"),
        ("µ", "x"),
    ],
)
def test_names_that_only_files_have(tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, name: str) -> None:
    path = tmp_path / "config.yaml"
    text = f"""
datasets: {{ d: {{ source: {{ kind: file, paths: [a.csv], features: ["{column}", b] }} }} }}
trainings: {{ t: {{ dataset: d, objective: {{ kind: wgan_gp }} }} }}
targets: {{ run: {{ trainings: [t] }} }}
"""
    path.write_text(text)
    assert main(["config", "--check", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"'{column}' is no name" in said
    assert f"cure: write name: column, {{ {name}: '{column}', ... }}" in said
    # The cure works.
    path.write_text(text.replace(f'["{column}", b]', f"{{ {name}: '{column}', b: b }}"))
    assert main(["config", "--check", str(path)]) == 0
