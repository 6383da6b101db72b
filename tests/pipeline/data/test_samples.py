"""What comes back from a staged dataset, and that a damaged one does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kantor.data.manifest import Manifest
from kantor.data.samples import Sample, read_split, read_splits
from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import Table

SPLITS = ("train", "validation", "test")


@pytest.fixture
def manifest_path(table: Table) -> Path:
    table.stage(shard_rows=150)
    return table.out / "manifest.json"


def test_splits_are_disjoint_and_complete(table: Table, manifest_path: Path) -> None:
    samples = [read_split(manifest_path, split) for split in SPLITS]
    assert [sample.rows for sample in samples] == [600, 200, 200]
    x = np.concatenate([sample.features[:, 0] for sample in samples])
    assert np.array_equal(np.sort(x), np.sort(table.columns["x"].astype(np.float32)))


def test_splits_read_together_are_the_splits(table: Table, manifest_path: Path) -> None:
    for sample, split in zip(read_splits(manifest_path, *SPLITS), SPLITS, strict=True):
        alone = read_split(manifest_path, split)
        assert np.array_equal(sample.features, alone.features)
        assert np.array_equal(sample.conditions, alone.conditions)
        assert sample.weights is not None
        assert alone.weights is not None
        assert np.array_equal(sample.weights, alone.weights)


def test_rows_follow_the_permutation(table: Table, manifest_path: Path) -> None:
    order = np.random.default_rng(1).permutation(1000)[600:800]
    sample = read_split(manifest_path, "validation")
    expected = {name: values[order].astype(np.float32) for name, values in table.columns.items()}
    assert np.array_equal(sample.features, np.stack([expected["x"], expected["y"]], axis=1))
    assert np.array_equal(sample.conditions, expected["eta"][:, None])
    assert sample.weights is not None
    assert np.array_equal(sample.weights, expected["w"])
    assert list(sample.columns()) == ["x", "y", "pseudorapidity"]
    assert np.array_equal(sample.columns()["pseudorapidity"], expected["eta"])


def test_split_seed_changes_the_rows(table: Table) -> None:
    table.stage()
    before = read_split(table.out / "manifest.json", "test")
    table.stage(split={"seed": 2})
    assert not np.array_equal(before.features, read_split(table.out / "manifest.json", "test").features)


def test_fractions_below_one_leave_rows_out(table: Table) -> None:
    table.stage(split={"train": 0.5, "validation": 0.1, "test": 0.1})
    samples = [read_split(table.out / "manifest.json", split) for split in SPLITS]
    assert [sample.rows for sample in samples] == [500, 100, 100]


def test_without_conditions_and_weights(table: Table) -> None:
    manifest = table.stage(conditions={}, weight=None)
    sample = read_split(table.out / "manifest.json", "train")
    assert not manifest.weighted
    assert sample.weights is None
    assert sample.conditions.shape == (600, 0)
    assert sample.effective_rows == sample.take(slice(None)).rows == 600


def test_effective_rows_of_signed_weights() -> None:
    weights = np.array([2.0, -1.0, 1.0], dtype=np.float32)
    sample = Sample(np.zeros((3, 1)), np.empty((3, 0)), weights, ("x",))
    assert sample.effective_rows == pytest.approx(4 / 6)
    taken = sample.take(np.array([1, 0]))
    assert taken.weights is not None
    assert taken.weights.tolist() == [-1.0, 2.0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage, message", [(truncate, "bytes instead of"), (alter, "checksum"), (Path.unlink, "missing")]
)
def test_damaged_shard(manifest_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    shard = manifest_path.parent / "shard-0003.h5"
    damage(shard)
    with pytest.raises(InputError, match=message) as caught:
        read_split(manifest_path, "train")
    assert caught.value.where == shard
    # The cure works when followed, by hand and in the workflow, where it is the manifest that is missed.
    assert caught.value.cure == f"remove {manifest_path} and run again: the dataset is then staged again"


def test_missing_or_damaged_manifest(manifest_path: Path) -> None:
    truncate(manifest_path)
    with pytest.raises(InputError, match="is not a Manifest of this version"):
        read_split(manifest_path, "train")
    manifest_path.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_split(manifest_path, "train")


def test_manifest_of_another_format(manifest_path: Path) -> None:
    content = manifest_path.read_text().replace('"format": 1', '"format": 2')
    manifest_path.write_text(content)
    with pytest.raises(InputError, match="format"):
        Manifest.read(manifest_path)
