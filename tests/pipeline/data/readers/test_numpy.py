"""NPZ and NPY, and what may stand beside the wanted columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import ReadAll

RECORDS = np.zeros(20, dtype=[("px", "f4"), ("hit", "i2", (3,)), ("truth", [("e", "f8")])])
RECORDS["px"], RECORDS["hit"][:, 1], RECORDS["truth"]["e"] = np.arange(20), np.arange(20) * 2, np.arange(20) / 4


def test_object_arrays_beside(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "events.npz"
    jets = np.array([[1.0], [2.0, 3.0], None], dtype=object)
    np.savez(path, a=np.arange(3.0), jets=jets, when=np.array("now"))
    assert read_all(path, "a")["a"].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="'jets' holds Python objects") as caught:
        read_all(path, "jets")
    assert "damaged" not in (caught.value.cure or "")


@pytest.mark.parametrize("ending, name", [(".npz", "events"), (".npy", "")])
def test_records(tmp_path: Path, read_all: ReadAll, ending: str, name: str) -> None:
    path = tmp_path / f"records{ending}"
    if name:
        np.savez_compressed(path, events=RECORDS)
    else:
        np.save(path, RECORDS)
    found = read_all(path, "px", "hit[1]", "truth.e")
    assert found["px"].tolist() == list(range(20))
    assert found["hit[1]"].tolist() == list(range(0, 40, 2))
    assert found["truth.e"].tolist() == [n / 4 for n in range(20)]


def test_npy(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "matrix.npy"
    matrix = np.asfortranarray(np.arange(60.0).reshape(20, 3))
    np.save(path, matrix)
    assert read_all(path, "array[2]")["array[2]"].tolist() == matrix[:, 2].tolist()
    assert read_all(path, "py", header=["px", "py", "pz"])["py"].tolist() == matrix[:, 1].tolist()
    with pytest.raises(InputError, match="3 columns, but 2 names"):
        read_all(path, "py", header=["px", "pz"])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_all(path, "array[2]")
    np.save(path, np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="Python objects"):
        read_all(path, "array")


def test_altered_headers_are_damage(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "events.npz"
    np.savez(path, a=np.arange(30.0))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"{'descr'", b"{'des(r'"))
    with pytest.raises(InputError, match="truncated or damaged"):
        read_all(path, "a")
