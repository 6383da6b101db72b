"""Parquet with every type that holds numbers."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import ReadAll

NAN = float("nan")


@pytest.mark.parametrize(
    "array, expected",
    [
        (pa.array([Decimal("1.25"), None, Decimal("-3.50")], pa.decimal128(9, 2)), [1.25, NAN, -3.5]),
        (pa.array([1, None, 2**40], pa.int64()), [1, NAN, 2**40]),
        (pa.array([1, 2**63 + 5, None], pa.uint64()), [1, float(2**63 + 5), NAN]),
        (pa.array([True, None, False]), [1, NAN, 0]),
        (pa.array([0.5, None, 2], pa.float16()), [0.5, NAN, 2]),
        (pa.array([1.5, None, 2.5]).dictionary_encode(), [1.5, NAN, 2.5]),
        (pa.array([None, None, None]), [NAN] * 3),
    ],
    ids=lambda value: str(getattr(value, "type", "")) or None,
)
def test_numbers(tmp_path: Path, read_all: ReadAll, array: pa.Array, expected: list[float]) -> None:
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table({"a": array}), path)
    assert np.array_equal(read_all(path, "a", rows=2)["a"], expected, equal_nan=True)


def test_lists_and_records(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "events.parquet"
    fixed = pa.array([[1, 2], None, [5, 6], [7, 8]], pa.list_(pa.float32(), 2))
    nested = pa.array([[[n, n + 1], [n + 2, n + 3]] for n in range(4)], pa.list_(pa.list_(pa.int32(), 2), 2))
    lists = pa.array([[1.0], [], None, [4.0, 5.0]])
    record = pa.array(
        [{"e": 1.0, "p": [1, 2]}, {"e": 2.0, "p": [3, 4]}, None, {"e": None, "p": [5, 6]}],
        pa.struct([("e", pa.float64()), ("p", pa.list_(pa.int8(), 2))]),
    )
    pq.write_table(pa.table({"f": fixed, "n": nested, "l": lists, "r": record}), path)
    expected = {
        "f[1]": [2, NAN, 6, 8],
        "n[1][0]": [2, 3, 4, 5],
        "l[1]": [NAN, NAN, NAN, 5],
        "r.e": [1, 2, NAN, NAN],
        "r.p[1]": [2, 4, NAN, 6],
    }
    for rows in (100, 3, 1):
        found = read_all(path, *expected, rows=rows)
        for name, values in expected.items():
            assert np.array_equal(found[name], values, equal_nan=True), name
    with pytest.raises(InputError, match=r"'f' holds \(2,\) values per row"):
        read_all(path, "f")
    with pytest.raises(InputError, match="'l' is jagged"):
        read_all(path, "l")
    with pytest.raises(InputError, match="'r' holds no plain numbers"):
        read_all(path, "r")
    with pytest.raises(InputError, match=r"no column 'r\.e\[0\]'"):
        read_all(path, "r.e[0]")


def test_what_is_no_number(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "events.parquet"
    columns = {
        "word": ["a"],
        "when": [datetime.date(2026, 1, 1)],
        "code": pa.array(["x"]).dictionary_encode(),
        "x": [1.0],
    }
    pq.write_table(pa.table(columns), path)
    assert read_all(path, "x")["x"].tolist() == [1]
    for name in ("word", "when", "code"):
        with pytest.raises(InputError, match=f"'{name}' holds no plain numbers"):
            read_all(path, name)
