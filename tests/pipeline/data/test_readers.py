"""Every kind of file comes back as it was written, and a wrong one is named. More of each format: readers/."""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from kantor.data.readers import Request, read
from kantor.errors import InputError

ROWS = 1000
RNG = np.random.default_rng(3)
COLUMNS = {
    "px": RNG.normal(size=ROWS),
    "n_tracks": RNG.integers(0, 400, size=ROWS),
    "pT": RNG.normal(size=ROWS).astype(np.float32),
    "is_muon": RNG.random(ROWS) < 0.3,
}
NAMES = list(COLUMNS)
MATRIX = np.stack([values.astype(float) for values in COLUMNS.values()], axis=1)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in COLUMNS.items():
            file[name] = values


def write_hdf5_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in COLUMNS.items():
            file[f"events/{name}"] = values.reshape(-1, 1)


def write_hdf5_compound(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["events"] = np.rec.fromarrays(list(COLUMNS.values()), names=NAMES)  # type: ignore[arg-type]


def write_hdf5_matrix(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["events"] = MATRIX
        file["events"].attrs["columns"] = NAMES


def write_hdf5_group_names(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a/events"] = MATRIX
        file["a"].attrs["names"] = np.array(NAMES, dtype="S")


def write_npz(path: Path) -> None:
    np.savez(path, **COLUMNS)  # type: ignore[arg-type]


def write_npz_matrix(path: Path) -> None:
    np.savez(path, data=MATRIX, columns=np.array(NAMES))


def write_npz_compound(path: Path) -> None:
    np.savez(path, events=np.rec.fromarrays(list(COLUMNS.values()), names=NAMES))  # type: ignore[arg-type]


def write_npy(path: Path) -> None:
    np.save(path, np.rec.fromarrays(list(COLUMNS.values()), names=NAMES))  # type: ignore[arg-type]


def csv_text(separator: str, header: str) -> str:
    return header + "".join(separator.join(repr(float(value)) for value in row) + "\n" for row in MATRIX)


def write_csv(path: Path) -> None:
    path.write_text(csv_text(",", ",".join(NAMES) + "\n"))


def write_csv_tabs(path: Path) -> None:
    path.write_text(csv_text("\t", "\t".join(NAMES) + "\n"))


def write_csv_packed(path: Path) -> None:
    path.write_bytes(gzip.compress(csv_text(",", ",".join(NAMES) + "\n").encode()))


def write_csv_blanks(path: Path) -> None:
    np.savetxt(path, MATRIX, header=" ".join(NAMES), fmt="%.17g")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table(COLUMNS), path)


def write_root(path: Path) -> None:
    with uproot.recreate(path) as file:
        file.mktree("events", {name: values.dtype for name, values in COLUMNS.items()})
        file["events"].extend(COLUMNS)  # type: ignore[union-attr]


FORMATS: list[tuple[str, Callable[[Path], None]]] = [
    (".h5", write_hdf5),
    (".hdf5", write_hdf5_group),
    (".h5", write_hdf5_compound),
    (".h5", write_hdf5_matrix),
    (".h5", write_hdf5_group_names),
    (".npz", write_npz),
    (".npz", write_npz_matrix),
    (".npz", write_npz_compound),
    (".npy", write_npy),
    (".csv", write_csv),
    (".csv.gz", write_csv_packed),
    (".csv", write_csv_tabs),
    (".txt", write_csv_blanks),
    (".parquet", write_parquet),
    (".root", write_root),
]
EACH_FORMAT = pytest.mark.parametrize("ending, write", FORMATS, ids=[write.__name__[6:] for _, write in FORMATS])


def read_all(path: Path, *columns: str, **request: object) -> dict[str, np.ndarray]:
    chunks = list(read(path, Request(columns, **{"rows": 300} | request)))  # type: ignore[arg-type]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in columns}


@EACH_FORMAT
def test_round_trip(tmp_path: Path, ending: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"events{ending}"
    write(path)
    chunks = list(read(path, Request(("pT", "px", "n_tracks", "is_muon"), rows=300)))
    assert [len(chunk["px"]) for chunk in chunks] == [300, 300, 300, 100]
    for name, values in COLUMNS.items():
        found = np.concatenate([chunk[name] for chunk in chunks])
        assert found.dtype == np.float64
        assert np.array_equal(found, values.astype(float))


@EACH_FORMAT
def test_wrong_column(tmp_path: Path, ending: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"events{ending}"
    write(path)
    with pytest.raises(InputError, match="no column 'ntracks'; the columns are: ") as caught:
        read_all(path, "px", "ntracks")
    assert caught.value.where == path
    assert caught.value.cure == "did you mean n_tracks?"


@EACH_FORMAT
def test_truncated(tmp_path: Path, ending: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"events{ending}"
    write(path)
    content = path.read_bytes()
    # Cut inside the last line for text, in the middle for the rest.
    path.write_bytes(content[: len(content) - 30 if ending in (".csv", ".txt") else len(content) // 2])
    with pytest.raises(InputError) as caught:
        read_all(path, "px", "pT")
    assert caught.value.where == path
    assert caught.value.cure is not None
    assert "truncated" in caught.value.cure


@pytest.mark.parametrize("ending", [".h5", ".npz", ".npy", ".csv", ".csv.gz", ".parquet", ".root"])
def test_missing_empty_and_directory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"events{ending}"
    with pytest.raises(InputError, match="no such file"):
        read_all(path, "px")
    path.write_bytes(b"")
    with pytest.raises(InputError, match=path.name):
        read_all(path, "px")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="directory"):
        read_all(path, "px")


def test_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.xlsx' is not known\n.*\.parquet"):
        read_all(tmp_path / "events.xlsx", "px")


@pytest.mark.parametrize("module, ending", [("uproot", ".root"), ("pyarrow.parquet", ".parquet")])
def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, ending: str) -> None:
    path = tmp_path / f"events{ending}"
    path.touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'kantor\[{ending[1:]}\]'"):
        read_all(path, "px")


def test_hdf5_unnamed_matrix(tmp_path: Path) -> None:
    path = tmp_path / "responses.h5"
    with h5py.File(path, "w") as file:
        file["responses"], file["energy"] = MATRIX, MATRIX[:, :1]
    found = read_all(path, "responses[2]", "energy")
    assert np.array_equal(found["responses[2]"], MATRIX[:, 2])
    assert np.array_equal(found["energy"], MATRIX[:, 0])


def test_hdf5_tables(tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        file["data/x"], file["simulation/x"] = np.zeros(3), np.ones(4)
    assert read_all(path, "x", table="simulation")["x"].tolist() == [1.0] * 4
    assert read_all(path, "x", table="data/x")["x"].tolist() == [0.0] * 3
    for table in (None, "truth"):
        with pytest.raises(InputError, match="the tables are: data"):
            read_all(path, "x", table=table)


def test_hdf5_columns_of_different_length(tmp_path: Path) -> None:
    path = tmp_path / "uneven.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = np.zeros(3), np.ones(4)
    with pytest.raises(InputError, match="differ in length: x 3, y 4"):
        read_all(path, "x", "y")


def test_hdf5_wrong_number_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.h5"
    with h5py.File(path, "w") as file:
        file["events"] = MATRIX
        file["events"].attrs["names"] = NAMES[:2]
    with pytest.raises(InputError, match="4 columns, but 2 names"):
        read_all(path, "px")


def test_column_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "twice.npz"
    np.savez(path, px=np.zeros(3), data=np.ones((3, 2)), names=np.array(["px", "py"]))
    with pytest.raises(InputError, match="'px' is there twice"):
        read_all(path, "px")
    path = tmp_path / "twice.csv"
    path.write_text("px,px\n1,2\n")
    with pytest.raises(InputError, match="'px' is there twice"):
        read_all(path, "px")


@pytest.mark.parametrize("values", [np.array(["muon", "pion"]), np.array([1j, 2j])])
def test_not_numeric(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "events.npz"
    np.savez(path, species=values)
    with pytest.raises(InputError, match="'species' holds no plain numbers"):
        read_all(path, "species")


def test_csv_without_header(tmp_path: Path) -> None:
    path = tmp_path / "tape.csv"
    path.write_text(csv_text(",", ""))
    assert np.array_equal(read_all(path, "pT", header=NAMES)["pT"], MATRIX[:, 2])
    with pytest.raises(InputError, match="name its columns by 'header'"):
        read_all(path, "pT")
    with pytest.raises(InputError, match="line 1 has 4 fields instead of 3"):
        read_all(path, "px", header=NAMES[:3])
    write_csv(path)
    with pytest.raises(InputError, match="has a header line"):
        read_all(path, "px", header=NAMES)


def test_csv_gaps_text_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text('\ufeff"px", name ,pT\n1.5,"a, b",2\n\n# half time\n,c,inf\n', encoding="utf-8")
    found = read_all(path, "px", "pT")
    assert np.array_equal(found["px"], [1.5, np.nan], equal_nan=True)
    assert found["pT"].tolist() == [2.0, np.inf]
    with pytest.raises(InputError, match="line 2: column 'name' holds 'a, b', which is no number"):
        read_all(path, "name")


def test_csv_binary(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(b"px,py\n\xff\xfe\x00,1\n")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_all(path, "px")


def test_parquet_missing_values_are_nan(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table({"a.b": [1, None, 3], "list": [[1], [], [2, 3]]}), path)
    assert np.array_equal(read_all(path, "a.b")["a.b"], [1, np.nan, 3], equal_nan=True)
    with pytest.raises(InputError, match="'list' is jagged"):
        read_all(path, "list")


def test_root_trees(tmp_path: Path) -> None:
    path = tmp_path / "two.root"
    with uproot.recreate(path) as file:
        for number, name in enumerate(("DecayTree", "sub/MCTree")):
            file.mktree(name, {"x": "f8"})
            file[name].extend({"x": np.full(3, float(number))})  # type: ignore[union-attr]
    assert read_all(path, "x", table="sub/MCTree")["x"].tolist() == [1.0] * 3
    for table in (None, "MCTree"):
        with pytest.raises(InputError, match="the tables are: DecayTree, sub/MCTree"):
            read_all(path, "x", table=table)


def test_root_jagged_and_array_branches(tmp_path: Path) -> None:
    import awkward

    path = tmp_path / "jagged.root"
    with uproot.recreate(path) as file:
        file["events"] = {"track_p": awkward.Array([[1.0], [2.0, 3.0], []]), "hits": np.zeros((3, 4))}
    with pytest.raises(InputError, match="'track_p' is jagged"):
        read_all(path, "track_p")
    with pytest.raises(InputError, match=r"'hits' holds \(4,\) values per row"):
        read_all(path, "hits")
