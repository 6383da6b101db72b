"""Trees of every writer at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import awkward as ak
import numpy as np
import pytest
import uproot
from uproot.writing import _cascadentuple

from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import ReadAll

FILES = Path(__file__).parents[1] / "files"


def test_geant4(read_all: ReadAll) -> None:
    found = read_all(FILES / "geant4.root", "layer", "time", "energy")
    assert found["layer"].tolist() == [n % 3 for n in range(50)]
    assert found["time"].tolist() == [n / 4 for n in range(50)]
    assert np.array_equal(found["energy"], np.arange(50) ** 2 / 7)


def test_leaf_lists(read_all: ReadAll) -> None:
    found = read_all(FILES / "leaflist.root", "leaflist.x", "leaflist.y", rows=2)
    assert found["leaflist.x"].tolist() == [1.1, 2.2, 3.3, 4.0, 5.5]
    assert found["leaflist.y"].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="holds records") as caught:
        read_all(FILES / "leaflist.root", "leaflist")
    assert "leaflist.x, leaflist.y" in (caught.value.cure or "")
    with pytest.raises(InputError, match="no field 'w'"):
        read_all(FILES / "leaflist.root", "leaflist.w")


def test_fixed_size_branches(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "fixed.root"
    hits, matrix = np.arange(80.0).reshape(20, 4), np.arange(120.0).reshape(20, 2, 3)
    with uproot.recreate(path) as file:
        file.mktree("t", {"hits": ("f4", (4,)), "m": ("f8", (2, 3)), "one": ("i4", (1,))})
        file["t"].extend({"hits": hits, "m": matrix, "one": np.arange(20).reshape(20, 1)})  # type: ignore[union-attr]
    found = read_all(path, "hits[0]", "hits[3]", "m[1][2]", "one")
    assert found["hits[3]"].tolist() == hits[:, 3].tolist()
    assert found["m[1][2]"].tolist() == matrix[:, 1, 2].tolist()
    assert found["one"].tolist() == list(range(20))
    with pytest.raises(InputError, match=r"'hits' holds \(4,\) values per row") as caught:
        read_all(path, "hits")
    assert "hits[0] to hits[3]" in (caught.value.cure or "")
    with pytest.raises(InputError, match=r"no column 'hits\[4\]'"):
        read_all(path, "hits[4]")
    with pytest.raises(InputError, match=r"no column 'm\[1\]'"):
        read_all(path, "m[1]")


def test_elements_of_jagged_branches(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "jagged.root"
    with uproot.recreate(path) as file:
        file["t"] = {"p": ak.Array([[1.0], [2.0, 3.0], [], [4, 5, 6]])}
    assert np.array_equal(read_all(path, "p[1]", rows=3)["p[1]"], [np.nan, 3, np.nan, 5], equal_nan=True)
    with pytest.raises(InputError, match="'p' is jagged") as caught:
        read_all(path, "p")
    assert "p[0]" in (caught.value.cure or "")


def test_rntuple(tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch) -> None:
    # uproot reads half floats, but writes them only if its tables have them.
    monkeypatch.setitem(_cascadentuple._ak_primitive_to_typename_dict, "float16", "float")
    monkeypatch.setitem(_cascadentuple._ak_primitive_to_num_dict, "float16", 0x0B)
    path = tmp_path / "tuple.root"
    columns = {
        "half": np.arange(20).astype(np.float16) / 8,
        "x": np.arange(20.0),
        "flag": np.arange(20) % 2 == 0,
        "hits": ak.to_regular(ak.Array(np.arange(60.0).reshape(20, 3)), axis=1),
        "jet": ak.Array([[float(n)] * (n % 3) for n in range(20)]),
    }
    with uproot.recreate(path) as file:
        file.mkrntuple("events", columns)
    found = read_all(path, "half", "x", "flag", "jet[0]")
    assert found["half"].tolist() == (np.arange(20) / 8).tolist()
    assert found["flag"].tolist() == [1, 0] * 10
    assert np.array_equal(found["jet[0]"], [n if n % 3 else np.nan for n in range(20)], equal_nan=True)
    assert read_all(path, "hits[2]")["hits[2]"].tolist() == list(range(2, 60, 3))


def test_the_highest_cycle(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "cycles.root"
    with uproot.recreate(path) as file:
        for cycle in (1.0, 2.0):
            file.mktree("folder/t", {"x": "f8"})
            file["folder/t"].extend({"x": np.full(5, cycle)})  # type: ignore[union-attr]
        assert [key for key in file.keys() if ";2" in key]  # noqa: SIM118 - no mapping
    assert read_all(path, "x")["x"].tolist() == [2.0] * 5
    assert read_all(path, "x", table="folder/t;1")["x"].tolist() == [1.0] * 5


def test_empty_tree_and_no_tree(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "empty.root"
    with uproot.recreate(path) as file:
        file.mktree("t", {"x": "f8"})
    assert len(read_all(path, "x")["x"]) == 0
    with pytest.raises(InputError, match="no column 'y'"):
        read_all(path, "y")
    with uproot.recreate(path) as file:
        file["h"] = np.histogram([1.0, 2.0])
    with pytest.raises(InputError, match="holds no table"):
        read_all(path, "x")


def test_text(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "text.root"
    with uproot.recreate(path) as file:
        file["t"] = {"species": ak.Array(["muon", "pion"]), "x": np.arange(2.0)}
    assert read_all(path, "x")["x"].tolist() == [0, 1]
    with pytest.raises(InputError, match="'species' holds no plain numbers"):
        read_all(path, "species")


def test_an_address_is_read(read_all: ReadAll) -> None:
    found = read_all(f"file://{FILES / 'geant4.root'}", "energy")
    assert np.array_equal(found["energy"], np.arange(50) ** 2 / 7)


def test_addresses_that_need_a_package(monkeypatch: pytest.MonkeyPatch, read_all: ReadAll) -> None:
    opened: list[object] = []

    def no_package(address: object, **_: object) -> None:
        opened.append(address)
        raise ImportError("Install XRootD and fsspec-xrootd")

    monkeypatch.setattr(uproot, "open", no_package)
    address = "root://eos.example.org//store/a.root"
    with pytest.raises(InputError, match="needs another package") as caught:
        read_all(address, "x")
    assert opened == [address]
    assert caught.value.cure is not None
    assert "pip install xrootd fsspec-xrootd" in caught.value.cure
    with pytest.raises(InputError, match="HDF5 files are not read from afar"):
        read_all("https://example.org/a.h5", "x")


def test_a_fault_of_a_reader_is_not_called_damage(monkeypatch: pytest.MonkeyPatch, read_all: ReadAll) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("'float' object cannot be interpreted as an integer")

    monkeypatch.setattr(uproot, "open", fail)
    with pytest.raises(InputError, match="TypeError: 'float' object") as caught:
        read_all(FILES / "geant4.root", "energy")
    assert "damaged" not in (caught.value.cure or "")
    assert "report" in (caught.value.cure or "")
