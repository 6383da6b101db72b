"""ROOT's trees and RNTuples, through uproot: by ROOT itself, by Geant4's analysis manager, by uproot.

Columns are branches, `branch.leaf` of leaf lists, and fields of an RNTuple, by the names that uproot gives them.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from kantor.data.readers.base import (
    File,
    Format,
    Index,
    Request,
    Table,
    elements,
    jagged,
    misfit,
    no_table,
    not_numbers,
    picked,
    places,
    several,
)
from kantor.errors import InputError
from kantor.machine.inputs import is_remote
from kantor.machine.packages import optional
from kantor.shapes import Shape

_TREES = ["TTree", "TNtuple*", "ROOT::RNTuple", "ROOT::Experimental::RNTuple"]
# How uproot reads numbers; NoneType is an RNTuple's field.
_NUMBERS = ("AsDtype", "AsDtypeInPlace", "AsJagged", "AsDouble32", "AsFloat16", "AsSTLBits", "NoneType")
_SNAPSHOT = "write it with plain numbers (float, double, int, bool), for instance by RDataFrame's Snapshot"
# What reads an address, by its scheme.
_PACKAGES = {
    "root": "xrootd fsspec-xrootd",
    "xroot": "xrootd fsspec-xrootd",
    "https": "aiohttp",
    "http": "aiohttp",
    "s3": "s3fs",
}


def _read(file: File, request: Request) -> Iterator[Table]:
    uproot = optional("uproot", "root", "reading ROOT")
    with uproot.open(file) as content:
        # Of several cycles, the highest is the latest.
        trees = sorted(set(content.keys(cycle=False, filter_classname=_TREES)))
        wanted = None if request.table is None else request.table.partition(";")[0]
        if wanted not in trees and (wanted is not None or len(trees) != 1):
            no_table(file, request.table, trees)
        tree = content[request.table or trees[0]]
        found = places(file, request.columns, _known(tree, request.columns))
        # Geant4 stores the number of entries as a double.
        for begin in range(0, int(tree.num_entries), request.rows):
            end = min(begin + request.rows, int(tree.num_entries))
            read = {name: _branch(file, tree, name, begin, end) for name in {place[0] for place, _ in found.values()}}
            yield {
                column: _values(file, column, read[place[0]], place[1:], index, request.shapes.get(column, ()))
                for column, (place, index) in found.items()
            }


def _known(tree: Any, columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Column -> (branch, leaf, ...): all branches and leaf lists, and the fields of objects that are wanted."""
    known: dict[str, tuple[str, ...]] = {}
    for name, branch in tree.items():
        leaves = branch.member("fLeaves") if hasattr(branch, "member") else []
        known |= {f"{name}.{leaf.member('fName')}": (name, leaf.member("fName")) for leaf in leaves if len(leaves) > 1}
        known[name] = (name,)
    for name, _ in (inner for column in columns for inner in elements(column)):
        branch, *fields = name.split(".")
        while name not in known and fields:
            if branch in known:
                known[name] = (*known[branch], *fields)
            branch, fields = f"{branch}.{fields[0]}", fields[1:]
    return known


def _branch(file: File, tree: Any, name: str, begin: int, end: int) -> Any:
    branch = tree[name]
    try:
        values = branch.array(entry_start=begin, entry_stop=end, library="ak")
    except Exception as error:
        kind = type(getattr(branch, "interpretation", None)).__name__
        if kind in _NUMBERS:
            raise
        inner = [f"{name}/{part.name}" for part in getattr(branch, "branches", ())]
        raise InputError(
            f"the branch '{name}' ({branch.typename}) holds objects that uproot does not turn into numbers",
            where=file,
            cure=f"name one of its branches: {', '.join(inner[:5])}" if inner else _SNAPSHOT,
        ) from error
    if len(values) != end - begin:
        raise InputError(
            f"the branch '{name}' has {begin + len(values):,} entries, the tree {int(tree.num_entries):,}",
            where=file,
            cure="the file is truncated or damaged: copy it again",
        )
    return values


def _values(
    file: File, column: str, values: Any, fields: tuple[str, ...], index: Index, shape: Shape = ()
) -> np.ndarray:
    import awkward as ak

    for name in fields:
        if name not in ak.fields(values):
            shown = ", ".join(ak.fields(values)) or "none"
            raise InputError(f"there is no column '{column}': no field '{name}'", where=file, cure=f"fields: {shown}")
        values = values[name]
    if ak.fields(values):
        raise InputError(
            f"column '{column}' holds records",
            where=file,
            cure=f"name one of its fields: {', '.join(f'{column}.{name}' for name in ak.fields(values)[:5])}",
        )
    layout = ak.to_packed(values).layout
    if shape:
        return picked(file, column, _whole(file, column, layout, shape), index, array=True)
    if isinstance(layout, ak.contents.ListOffsetArray) and not _is_text(layout):
        if len(index) != 1:
            raise several(file, column, (None,))
        content = _plain(file, column, layout.content)
        if content.ndim > 1:
            raise several(file, column, (None,))
        return jagged(np.asarray(layout.offsets), content, index[0])
    return picked(file, column, _plain(file, column, layout), index)


def _whole(file: File, column: str, layout: Any, shape: Shape) -> np.ndarray:
    """Arrays of the same shape in all rows, (n, ...), though the file may store them as lists."""
    import awkward as ak

    inner = layout
    while isinstance(inner, ak.contents.ListOffsetArray) and not _is_text(inner):
        lengths = np.diff(np.asarray(inner.offsets))
        if len(lengths) and lengths.min() < lengths.max():
            raise misfit(file, column, f"lists of {lengths.min()} to {lengths.max()} values", shape)
        inner = inner.content
    return _plain(file, column, layout)


def _plain(file: File, column: str, layout: Any) -> np.ndarray:
    """Numbers of a fixed shape; a missing one is NaN."""
    import awkward as ak

    kind = str(ak.type(layout))
    if _is_text(layout):
        raise not_numbers(file, column, kind)
    try:
        values = ak.to_numpy(layout, allow_missing=True)
    except ValueError as error:
        raise not_numbers(file, column, kind, python=True) from error
    return np.ma.filled(values.astype(np.float64), np.nan) if np.ma.isMaskedArray(values) else values


def _is_text(layout: Any) -> bool:
    return layout.parameter("__array__") in ("string", "bytestring", "char", "byte")


# --------------------------------------------------------------------------------------------------- what goes wrong


def _damaged(file: File, error: Exception) -> bool:
    known = isinstance(error, OSError | struct.error | zlib.error | EOFError)
    return known or type(error).__name__ == "DeserializationError" or "checksum" in str(error)


def _explain(file: File, error: Exception) -> InputError | None:
    name = type(error).__name__
    if is_remote(file):
        scheme = str(file).partition(":")[0]
        package = _PACKAGES.get(scheme)
        if isinstance(error, ImportError) or "rotocol not known" in str(error):
            return InputError(
                f"reading {scheme}:// needs another package",
                where=file,
                cure=f"pip install {package}; or copy the file here" if package else "copy the file here",
            )
        if isinstance(error, OSError) or name == "DeserializationError":
            return InputError(
                f"cannot be read from afar: {str(error) or name}",
                where=file,
                cure="check the address and your proxy or ticket; or copy the file here",
            )
    if "RNTuple" in str(error) and name == "DeserializationError":
        return InputError(
            "this RNTuple is of a version that uproot does not read, from before ROOT 6.34",
            where=file,
            cure="write it anew with a newer ROOT",
        )
    if isinstance(error, ValueError) and "compression" in str(error):
        return InputError(
            f"its compression is not read: {(str(error).splitlines() or [''])[0]}",
            where=file,
            cure="compress it anew with ROOT: hadd -f404 new.root FILE",
        )
    if isinstance(error, ImportError):
        package = str(error).strip().splitlines()[-1] if str(error).strip() else name
        return InputError(f"reading this file needs another package: {package}", where=file, cure="install it")
    return None


ROOT = Format("ROOT", (".root",), _read, _damaged, _explain, remote=True)
