"""HDF5 as h5py, PyTables and pandas write it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import h5py
import numpy as np
import pandas as pd
import pytest
import tables

from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import ReadAll

FRAME = pd.DataFrame(
    {
        "px": np.arange(20.0) / 3,
        "n": np.arange(20),
        "flag": np.arange(20) % 2 == 0,
        "py": np.arange(20.0) ** 2,
        "half": np.arange(20).astype(np.float32),
    }
)


@pytest.mark.parametrize("format, columns", [("fixed", None), ("table", None), ("table", True), ("table", ["px"])])
def test_pandas(
    tmp_path: Path, read_all: ReadAll, format: Literal["fixed", "table"], columns: list[str] | Literal[True] | None
) -> None:
    path = tmp_path / "frame.h5"
    FRAME.to_hdf(path, key="events", format=format, data_columns=columns)
    found = read_all(path, *FRAME.columns)
    for name in FRAME.columns:
        assert found[name].tolist() == FRAME[name].astype(float).tolist()
    with pytest.raises(InputError, match="no column 'pz'"):
        read_all(path, "pz")


def test_several_frames(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "frames.h5"
    FRAME.to_hdf(path, key="truth", format="fixed")
    (FRAME * 2).to_hdf(path, key="events", format="table")
    with pytest.raises(InputError, match="several tables; the tables are: events, truth"):
        read_all(path, "py")
    assert read_all(path, "py", table="events")["py"].tolist() == (FRAME["py"] * 2).tolist()


def test_pytables(tmp_path: Path, read_all: ReadAll) -> None:
    truth = np.dtype([("energy", "f8")])
    hit = np.dtype([("x", "f4"), ("position", "f8", (3,)), ("name", "S8"), ("truth", truth)])
    path = tmp_path / "hits.h5"
    with tables.open_file(str(path), "w") as file:
        table = file.create_table("/detector", "hits", hit, createparents=True, filters=tables.Filters(5, "zlib"))
        for n in range(20):
            table.row["x"], table.row["position"], table.row["truth/energy"] = n / 2, [n, 2 * n, 3 * n], n * n
            table.row.append()
    found = read_all(path, "x", "position[2]", "truth.energy")
    assert found["x"].tolist() == [n / 2 for n in range(20)]
    assert found["position[2]"].tolist() == [3 * n for n in range(20)]
    assert found["truth.energy"].tolist() == [n * n for n in range(20)]
    with pytest.raises(InputError, match=r"'position' holds \(3,\) values per row"):
        read_all(path, "position")
    with pytest.raises(InputError, match="'name' holds no plain numbers"):
        read_all(path, "name")


def test_elements(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "showers.h5"
    showers = np.arange(240.0, dtype=np.float16).reshape(20, 4, 3)
    with h5py.File(path, "w") as file:
        file["showers"], file["energy"], file["run"] = showers, np.arange(20, dtype=">f4"), 7
    found = read_all(path, "showers[3][1]", "energy")
    assert found["showers[3][1]"].tolist() == showers[:, 3, 1].tolist()
    with pytest.raises(InputError, match=r"'showers' holds \(4, 3\) values") as caught:
        read_all(path, "showers")
    assert "showers[0][0] to showers[3][2]" in (caught.value.cure or "")
    for column in ("showers[4][0]", "showers[0]", "energy[0]"):
        with pytest.raises(InputError, match="no column"):
            read_all(path, column)


def test_a_name_may_hold_an_index(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "names.h5"
    with h5py.File(path, "w") as file:
        file["vertex[3]"], file["vertex"] = np.arange(15.0).reshape(5, 3), np.arange(20.0).reshape(5, 4)
    found = read_all(path, "vertex[3][1]", "vertex[2]")
    assert found["vertex[3][1]"].tolist() == [1, 4, 7, 10, 13]
    assert found["vertex[2]"].tolist() == [2, 6, 10, 14, 18]


def test_unwanted_columns_may_be_anything(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "mixed.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5.0)
        file["words"] = ["a", "bc"]
        file["matrix"] = np.zeros((5, 3))
        file["matrix"].attrs["names"] = ["x", "y"]
        file["nothing"] = h5py.Empty("f8")
        file["elsewhere"] = h5py.ExternalLink("nowhere.h5", "x")
        file.create_dataset("lists", (5,), dtype=h5py.vlen_dtype(np.float64))
    assert read_all(path, "x")["x"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="'lists' holds no plain numbers"):
        read_all(path, "lists")


def test_a_filter_that_is_missing(tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "blosc.h5"
    with h5py.File(path, "w") as file:
        kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind.set_chunk((10,))
        kind.set_filter(32013, h5py.h5z.FLAG_OPTIONAL, (0,) * 6)
        data = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((10,)), kind)
        data.write_direct_chunk((0,), b"packed by a library that is not here")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(InputError, match=r"HDF5 filter ZFP \(32013\), which is not installed") as caught:
        read_all(path, "x")
    assert caught.value.cure == "pip install hdf5plugin"


def test_filters_are_loaded_where_they_are_installed(tmp_path: Path) -> None:
    plugin = pytest.importorskip("hdf5plugin")
    path = tmp_path / "blosc.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000.0), **plugin.Blosc())
    # Here the filter is registered by now.
    script = (
        "import sys; from kantor.data.readers import Request, read\n"
        "print(sum(chunk['x'].sum() for chunk in read(sys.argv[1], Request(('x',), 300))))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "499500.0\n"


def test_a_locked_file(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "locked.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5.0)
    with path.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another program has locked this file") as caught:
            read_all(path, "x")
    assert "wait until" in (caught.value.cure or "")


def test_a_file_that_is_being_written(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "open.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = np.arange(5.0)
        file.flush()
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match="not closed by the one that did") as caught:
        read_all(path, "x")
    assert "h5clear" in (caught.value.cure or "")
