"""Every format gives back what was written, by Kantor's own readers and by the field's tools."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from kantor.data.readers import Request, read
from kantor.errors import InputError
from kantor.generation.writers import FORMATS, Layout, Written, format_of

RNG = np.random.default_rng(1)
CELLS = RNG.exponential(size=(1000, 3, 2)).astype("f4")
COLUMNS = {
    "energy": RNG.exponential(size=1000).astype("f4"),
    "time": 1.7e9 + RNG.random(1000),
    "cells": CELLS,
}
UNITS = {"energy": "GeV", "time": "s", "cells": "MeV"}
LAYOUT = Layout(
    [Written(name, UNITS[name], values.shape[1:], values.dtype) for name, values in COLUMNS.items()],
    1000,
    {"model": "calo", "seed": 3},
)
FLAT = Layout(LAYOUT.columns[:2], 1000, LAYOUT.facts)
ENDINGS = [ending for format in FORMATS for ending in format.endings]


def written(path: Path, layout: Layout) -> Path:
    format = format_of(path, list(layout.columns))
    with format.open(path, layout) as write:
        for rows in (slice(0, 300), slice(300, 301), slice(301, 1000)):
            write({column.name: COLUMNS[column.name][rows] for column in layout.columns})
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read(ending: str, tmp_path: Path) -> None:
    layout = FLAT if ending == ".csv" else LAYOUT
    path = written(tmp_path / f"events{ending}", layout)
    names = tuple(column.name for column in layout.columns)
    shapes = {column.name: column.shape for column in layout.columns if column.shape}
    chunks = list(read(path, Request(names, 400, shapes=shapes)))
    for name in names:
        found = np.concatenate([chunk[name] for chunk in chunks])
        # Text has as many digits as a float32 needs, not those of a float64 of the same value.
        assert np.array_equal(found.astype(COLUMNS[name].dtype), COLUMNS[name])


def test_the_field_s_tools_find_columns_shapes_units_and_provenance(tmp_path: Path) -> None:
    uproot = pytest.importorskip("uproot")
    facts = {"model": "calo", "seed": 3, "units": UNITS}
    with h5py.File(written(tmp_path / "a.h5", LAYOUT)) as file:
        assert {name: file[name].attrs["unit"] for name in file} == UNITS
        assert np.array_equal(np.asarray(file["cells"]), CELLS)
        assert json.loads(str(file.attrs["provenance"])) == facts
    with uproot.open(written(tmp_path / "a.root", LAYOUT)) as file:
        arrays = file["events"].arrays(library="np")
        assert {name: values.dtype for name, values in arrays.items()} == {k: v.dtype for k, v in COLUMNS.items()}
        assert all(np.array_equal(arrays[name], values) for name, values in COLUMNS.items())
        assert json.loads(str(file["provenance"])) == facts
    with np.load(written(tmp_path / "a.npz", LAYOUT)) as file:
        assert np.array_equal(file["cells"], CELLS)
        assert json.loads(str(file["provenance"])) == facts
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(written(tmp_path / "a.parquet", LAYOUT))
    assert json.loads(table.schema.metadata[b"provenance"]) == facts
    assert table.schema.field("energy").metadata[b"unit"] == b"GeV"
    assert table.column("cells")[7].as_py() == CELLS[7].tolist()
    written(tmp_path / "a.csv", FLAT)
    frame = pd.read_csv(tmp_path / "a.csv")
    assert list(frame.columns) == ["energy", "time"]
    assert np.array_equal(frame["energy"].to_numpy().astype("f4"), COLUMNS["energy"])
    energy, time = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1, unpack=True)
    assert np.array_equal(energy.astype("f4"), COLUMNS["energy"])
    assert np.array_equal(time, COLUMNS["time"])


@pytest.mark.parametrize("ending", [".h5", ".npz", ".parquet", ".csv"])
def test_the_same_rows_are_the_same_bytes(ending: str, tmp_path: Path) -> None:
    one, two = (written(tmp_path / f"{name}{ending}", FLAT).read_bytes() for name in "ab")
    assert one == two


def test_a_format_that_cannot_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"CSV has no place for 'cells', an array of shape \(3, 2\)") as caught:
        format_of(tmp_path / "a.csv", list(LAYOUT.columns))
    assert caught.value.cure == "choose a format that has: HDF5 (.h5), ROOT (.root), Parquet (.parquet), NPZ (.npz)"
    with pytest.raises(InputError, match=r"no format is known by the ending '.hepmc'"):
        format_of(tmp_path / "a.hepmc", [])
