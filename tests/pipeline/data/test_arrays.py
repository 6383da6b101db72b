"""Arrays in each row, from files of every format that has them to samples; what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from kantor.cli import main
from kantor.config import Dataset, FileSource
from kantor.data.manifest import Manifest
from kantor.data.readers import Request, read
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.errors import ConfigError, InputError
from kantor.machine.ranks import Ranks

ROWS = 200
RNG = np.random.default_rng(4)
IMAGES = RNG.gamma(1.0, 1.0, (ROWS, 3, 4)).astype(np.float32)
ENERGY = RNG.uniform(1, 10, ROWS)
FLAT = IMAGES.reshape(ROWS, 12)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["image"], file["flat"], file["energy"] = IMAGES, FLAT, ENERGY[:, None]


def write_hdf5_compound(path: Path) -> None:
    with h5py.File(path, "w") as file:
        kind = [("image", "f4", (3, 4)), ("flat", "f4", (12,)), ("energy", "f8")]
        file["events"] = np.array(list(zip(IMAGES, FLAT, ENERGY, strict=True)), dtype=kind)


def write_npz(path: Path) -> None:
    np.savez(path, image=IMAGES, flat=FLAT, energy=ENERGY)


def fixed(values: np.ndarray) -> pa.Array:
    array = pa.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def write_parquet_fixed(path: Path) -> None:
    columns = {"image": fixed(IMAGES), "flat": fixed(FLAT), "energy": ENERGY}
    pq.write_table(pa.table(columns), path, row_group_size=70)


def write_parquet_lists(path: Path) -> None:
    columns = {"image": IMAGES.tolist(), "flat": FLAT.tolist(), "energy": ENERGY}
    pq.write_table(pa.table(columns), path, row_group_size=70)


def write_parquet_tensors(path: Path) -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES)
    pq.write_table(pa.table({"image": tensors, "flat": fixed(FLAT), "energy": ENERGY}), path)


def write_root(path: Path) -> None:
    with uproot.recreate(path) as file:
        file.mktree("events", {"image": ("f4", (3, 4)), "flat": ("f4", (12,)), "energy": "f8"})
        file["events"].extend({"image": IMAGES, "flat": FLAT, "energy": ENERGY})  # type: ignore[union-attr]


def write_root_lists(path: Path) -> None:
    with uproot.recreate(path) as file:
        file["events"] = {
            "image": FLAT.reshape(ROWS, 12),
            "flat": ak.from_regular(ak.Array(FLAT), axis=1),
            "energy": ENERGY,
        }


WRITERS: list[tuple[str, Callable[[Path], None]]] = [
    (".h5", write_hdf5),
    (".h5", write_hdf5_compound),
    (".npz", write_npz),
    (".parquet", write_parquet_fixed),
    (".parquet", write_parquet_lists),
    (".parquet", write_parquet_tensors),
    (".root", write_root),
    (".root", write_root_lists),
]
EACH = pytest.mark.parametrize("ending, write", WRITERS, ids=[write.__name__[6:] for _, write in WRITERS])


@EACH
def test_arrays_come_back_whole_and_in_parts(tmp_path: Path, ending: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"events{ending}"
    write(path)
    shapes = {"image": (3, 4), "flat": (3, 4)}
    chunks = list(read(path, Request(("energy", "flat", "flat[5]", "image"), rows=90, shapes=shapes)))
    found = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    assert np.array_equal(found["image"], IMAGES.astype(float))
    assert np.array_equal(found["flat"], IMAGES.astype(float))
    assert np.array_equal(found["flat[5]"], FLAT[:, 5].astype(float))
    assert np.array_equal(found["energy"], ENERGY)
    assert max(len(chunk["energy"]) for chunk in chunks) <= 90


@EACH
def test_a_shape_that_does_not_fit_is_named(tmp_path: Path, ending: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"events{ending}"
    write(path)
    for column, there in (("flat", "12"), ("energy", "one number|arrays of 1")):
        with pytest.raises(InputError, match=rf"column '{column}' holds .*({there}) in each row, not arrays of 4 x 4"):
            list(read(path, Request((column,), rows=90, shapes={column: (4, 4)})))


def test_axes_of_another_order_do_not_fit(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "events.h5")
    with pytest.raises(InputError, match="holds arrays of 3 x 4 in each row, not arrays of 4 x 3") as caught:
        list(read(tmp_path / "events.h5", Request(("image",), rows=90, shapes={"image": (4, 3)})))
    assert caught.value.where == tmp_path / "events.h5"
    assert caught.value.cure == "set its shape to [3, 4]"


def test_a_part_of_an_array_is_an_array(tmp_path: Path) -> None:
    write_npz(tmp_path / "events.npz")
    (chunk,) = read(tmp_path / "events.npz", Request(("image[2]",), rows=1000, shapes={"image[2]": (4,)}))
    assert np.array_equal(chunk["image[2]"], IMAGES[:, 2].astype(float))
    with pytest.raises(InputError, match=r"no column 'image\[3\]'"):
        list(read(tmp_path / "events.npz", Request(("image[3]",), rows=9, shapes={"image[3]": (4,)})))


@pytest.mark.parametrize("ending", [".parquet", ".root"])
def test_jagged_lists_are_no_arrays(tmp_path: Path, ending: str) -> None:
    path, lists = tmp_path / f"events{ending}", [[1.0, 2.0], [3.0], [4.0, 5.0]]
    if ending == ".parquet":
        pq.write_table(pa.table({"hits": lists}), path)
    else:
        with uproot.recreate(path) as file:
            file["events"] = {"hits": ak.Array(lists)}
    with pytest.raises(InputError, match="column 'hits' holds lists of 1 to 2 values in each row, not arrays of 2"):
        list(read(path, Request(("hits",), rows=10, shapes={"hits": (2,)})))


def test_a_missing_list_is_nan(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table({"hits": [[1.0, 2.0], None, [4.0, 5.0]]}), path)
    (chunk,) = read(path, Request(("hits",), rows=10, shapes={"hits": (2,)}))
    assert np.array_equal(np.isnan(chunk["hits"]), [[False, False], [True, True], [False, False]])


# ------------------------------------------------------------------------------------------------------------- staging


def dataset(path: Path, **settings: Any) -> Dataset:
    features = {"image": {"column": "image", "shape": [3, 4]}, "first": "flat[0]"}
    source = {"kind": "file", "paths": [str(path)], "features": features, "conditions": ["energy"]}
    changes = {name: settings.pop(name) for name in list(settings) if name in FileSource.model_fields}
    return Dataset.model_validate({"source": source | {"units": {"image": "MeV"}} | changes, **settings})


def staged(path: Path, out: Path, **settings: Any) -> Manifest:
    return stage("showers", dataset(path, **settings), out, Ranks(), processes=1)


def test_samples_are_one_block_with_named_arrays(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "events.h5")
    manifest = staged(tmp_path / "events.h5", tmp_path / "out", shard_rows=70)
    assert [shard.rows for shard in manifest.shards] == [70, 70, 60]
    assert Manifest.read(tmp_path / "out" / "manifest.json") == manifest
    assert manifest.shapes == {"image": (3, 4)}
    with h5py.File(tmp_path / "out" / "shard-0000.h5") as file:
        features = file["features"]
        assert isinstance(features, h5py.Dataset)
        assert features.shape == (70, 13)
        assert [*np.asarray(features.attrs["shapes"])] == ["[3, 4]", "[]"]
        assert np.array_equal(features[:, :12], FLAT[:70])
    sample = read_split(tmp_path / "out" / "manifest.json", "train")
    assert sample.features.flags["C_CONTIGUOUS"]
    assert sample.features.dtype == np.float32
    columns = sample.columns()
    assert columns["image"].shape == (120, 3, 4)
    assert np.array_equal(columns["first"], columns["image"][:, 0, 0])
    order = np.random.default_rng(1).permutation(ROWS)[:120]
    assert np.array_equal(columns["image"], IMAGES[order])


def test_chunks_are_bounded_by_numbers_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hdf5(tmp_path / "events.h5")
    whole = staged(tmp_path / "events.h5", tmp_path / "whole")
    monkeypatch.setattr("kantor.data.sources.file._MOST_NUMBERS", 14 * 13)
    assert [shard.sha256 for shard in staged(tmp_path / "events.h5", tmp_path / "parts").shards] == [
        shard.sha256 for shard in whole.shards
    ]


def test_cuts_reduce_arrays(tmp_path: Path) -> None:
    write_npz(tmp_path / "events.npz")
    manifest = staged(tmp_path / "events.npz", tmp_path / "out", cuts=["sum(image) > 10", "image[0, 1] < 3"])
    assert manifest.rows == np.count_nonzero((IMAGES.sum((1, 2)) > 10) & (IMAGES[:, 0, 1] < 3))
    with pytest.raises(ConfigError, match="gives 3 x 4 answers for a row, not one"):
        staged(tmp_path / "events.npz", tmp_path / "no", cuts=["image > 0"])
    assert not (tmp_path / "no").exists()


def test_a_voxel_that_is_nan_is_named(tmp_path: Path) -> None:
    images = IMAGES.copy()
    images[150, 2, 1] = np.nan
    np.savez(tmp_path / "events.npz", image=images, flat=FLAT, energy=ENERGY)
    with pytest.raises(
        InputError, match=r"1 of 200 rows .*\(image 1\); the first is image\[2\]\[1\] in row 150 of "
    ) as it:
        staged(tmp_path / "events.npz", tmp_path / "out")
    assert it.value.exit_code == 2
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert staged(tmp_path / "events.npz", tmp_path / "out", invalid_rows="drop").rows == 199


def test_a_wrong_voxel_count_leaves_nothing(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "events.h5")
    features = {"image": {"column": "flat", "shape": [3, 5]}}
    with pytest.raises(InputError, match="column 'flat' holds arrays of 12 in each row, not arrays of 3 x 5"):
        staged(tmp_path / "events.h5", tmp_path / "out", features=features, units={})
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_one_column_has_one_shape() -> None:
    features = {"a": {"column": "v", "shape": [12]}, "b": {"column": "v", "shape": [3, 4]}}
    with pytest.raises(ValueError, match="the column 'v' is wanted in two shapes"):
        FileSource.model_validate({"kind": "file", "paths": ["a.h5"], "features": features})


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("{ column: image }", "features.image.shape: is missing"),
        ("{ column: image, shape: [3, 0] }", "features.image.shape.1 = 0: Input should be greater than 0"),
        (
            "{ column: image, shape: [3], shpae: [4] }",
            "features.image.shpae: unknown key\n    cure: did you mean 'shape'?",
        ),
        ("3", "features.image = 3: "),
    ],
)
def test_what_is_wrong_with_a_shape_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, what: str
) -> None:
    (tmp_path / "config.yaml").write_text(
        f"""
datasets: {{ d: {{ source: {{ kind: file, paths: [a.h5], features: {{ image: {column} }} }} }} }}
trainings: {{ t: {{ dataset: d, objective: {{ kind: wgan_gp }} }} }}
targets: {{ run: {{ trainings: [t] }} }}
"""
    )
    assert main(["config", "--check", str(tmp_path / "config.yaml")]) == 2
    said = capsys.readouterr().err
    assert "a field is not valid" in said
    assert what in said


def test_processes_share_files_of_arrays(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz")
    settings = dataset(tmp_path / "a.npz", paths=[str(tmp_path / "?.npz")])
    one, two = (
        stage("showers", settings, tmp_path / str(count), Ranks(), processes=count).model_dump_json()
        for count in (1, 2)
    )
    assert one == two


def test_conditions_may_be_arrays(tmp_path: Path) -> None:
    write_npz(tmp_path / "events.npz")
    conditions = {"energy": "energy", "image": {"column": "image", "shape": [3, 4]}}
    settings = dataset(tmp_path / "events.npz", features={"first": "flat[0]"}, conditions=conditions)
    stage("showers", settings, tmp_path / "out", Ranks(), processes=1)
    sample = read_split(tmp_path / "out" / "manifest.json", "train")
    assert sample.conditions.shape == (120, 13)
    assert np.array_equal(sample.columns()["image"][:, 0, 0], sample.features[:, 0])
    assert settings.source.condition_names[:3] == ["energy", "image[0][0]", "image[0][1]"]
