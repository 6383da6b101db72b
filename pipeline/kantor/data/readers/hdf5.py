"""HDF5, by any writer: h5py, PyTables, pandas (both of its formats), MATLAB's and C++ programs.

Columns are one-dimensional datasets, fields of compound datasets, or columns of a two-dimensional dataset that the
attribute `names` or `columns`, its own or its group's, names.
"""

import pickletools
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import h5py

from kantor.data.readers.arrays import NAMES, Arrays, Place, text_names
from kantor.data.readers.base import File, Format, Request, Table, no_table
from kantor.errors import InputError

# Filters that h5py has not: registered number -> name (https://github.com/HDFGroup/hdf5_plugins).
_FILTERS = {
    305: "LZO",
    307: "bzip2",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32018: "FCIDECOMP",
    32024: "SZ3",
    32026: "Blosc2",
    32028: "SPERR",
}
_PLUGINS = "hdf5plugin"
_BLOCK = re.compile(r"block(\d+)_values")


def _read(file: File, request: Request) -> Iterator[Table]:
    with h5py.File(file, "r") as content:
        arrays = _arrays(file, content, request.table)
        if any(map(_missing_filters, arrays.arrays.values())):
            _load_filters()
        yield from arrays.chunks(request)


def _arrays(file: File, content: h5py.File, table: str | None) -> Arrays:
    node: Any = content
    if table is not None:
        if table not in content:
            tables: list[str] = []
            content.visit(tables.append)
            no_table(file, table, tables)
        node = content[table]
    while True:
        items = _items(node)
        datasets = {name: item for name, item in items if isinstance(item, h5py.Dataset)}
        groups = [item for _, item in items if isinstance(item, h5py.Group)]
        if datasets or not groups:
            break
        if len(groups) > 1:
            no_table(file, None, [str(group.name).lstrip("/") for group in groups])
        node = groups[0]
    arrays = Arrays(file, datasets)
    blocks = _pandas_blocks(datasets)
    for name, dataset in datasets.items():
        if dataset.dtype.names is not None and "table_type" in _outer(dataset):
            _add_pandas_table(arrays, name, dataset)
        else:
            arrays.add(name, dataset.shape, dataset.dtype, blocks.get(name, _names(dataset)))
    return arrays


def _items(node: h5py.Group | h5py.Dataset) -> list[tuple[str, Any]]:
    if isinstance(node, h5py.Dataset):
        return [(str(node.name).rsplit("/", 1)[-1], node)]
    # A link to another file that is not there must not hide the columns that are.
    return [(str(name), item) for name in node if (item := node.get(name)) is not None]


def _names(dataset: h5py.Dataset) -> list[str] | None:
    """Column names of a two-dimensional dataset, from its own attributes or those of its group."""
    own = _names_in(dataset.attrs)
    if own is not None or dataset.shape is None or len(dataset.shape) != 2:
        return own
    outer = _names_in(_outer(dataset))
    return outer if outer is not None and len(outer) == dataset.shape[1] else None


def _outer(dataset: h5py.Dataset) -> Mapping[str, Any]:
    return dataset.parent.attrs


def _names_in(attributes: Mapping[str, Any]) -> list[str] | None:
    for name in NAMES:
        if name in attributes and (names := text_names(attributes[name])) is not None:
            return names
    return None


def _pandas_blocks(datasets: Mapping[str, h5py.Dataset]) -> dict[str, list[str]]:
    """Names of the columns in what pandas calls blocks: its "fixed" format."""
    found = {}
    for name in datasets:
        items = datasets.get(name.replace("_values", "_items"))
        if _BLOCK.fullmatch(name) and items is not None and (names := text_names(items[()])) is not None:
            found[name] = names
    return found


def _add_pandas_table(arrays: Arrays, key: str, dataset: h5py.Dataset) -> None:
    """The columns of pandas' "table" format: fields that hold several, whose names are a pickled list of strings."""
    for name in dataset.dtype.names:
        shape = dataset.dtype[name].shape
        names = _pickled_strings(dataset.attrs.get(f"{name}_kind"))
        if not shape or len(names) != shape[0]:
            arrays.name(name, Place(key, (name,)))
            continue
        for index, column in enumerate(names):
            arrays.name(column, Place(key, (name,), index))


def _pickled_strings(value: Any) -> list[str]:
    """The strings of a pickled list, without running what a pickle may run."""
    try:
        operations = list(pickletools.genops(bytes(value)))
    except (TypeError, ValueError):
        return []
    return [str(argument) for code, argument, _ in operations if "UNICODE" in code.name or "STRING" in code.name]


# --------------------------------------------------------------------------------------------------- what goes wrong


def _load_filters() -> None:
    """Register the filters of hdf5plugin, if it is installed."""
    try:
        import_module(_PLUGINS)
    except ImportError:
        return


def _damaged(file: File, error: Exception) -> bool:
    # h5py turns most of HDF5's errors into OSError; a damaged heap or header into the others.
    return isinstance(error, OSError | KeyError | RuntimeError | UnicodeDecodeError)


def _explain(file: File, error: Exception) -> InputError | None:
    text = str(error)
    if "already open" in text or "clear file consistency flags" in text:
        return InputError(
            "is open in a program that writes it, or was not closed by the one that did",
            where=file,
            cure="close it there; if that program has died: h5clear -s FILE",
        )
    missing = _missing_filter(file)
    if missing is None:
        return None
    number, name = missing
    name = _FILTERS.get(number, name)
    return InputError(
        f"its compression needs the HDF5 filter {name or 'of number'} ({number}), which is not installed",
        where=file,
        cure=f"pip install {_PLUGINS}" if number in _FILTERS and number != 305 else "rewrite it: h5repack -f GZIP=1",
    )


def _missing_filter(file: File) -> tuple[int, str] | None:
    """Number and name of the first filter of any dataset that is not there."""
    found: list[tuple[int, str]] = []
    try:
        with h5py.File(file, "r") as content:
            content.visititems(lambda _, item: found.extend(_missing_filters(item)))
    except (OSError, KeyError, RuntimeError):
        return None
    return found[0] if found else None


def _missing_filters(item: Any) -> list[tuple[int, str]]:
    if not isinstance(item, h5py.Dataset):
        return []
    pipeline = item.id.get_create_plist()
    filters = [pipeline.get_filter(position) for position in range(pipeline.get_nfilters())]
    missing = [(number, name) for number, _, _, name in filters if not h5py.h5z.filter_avail(number)]
    return [(number, name.decode("utf-8", "replace")) for number, name in missing]


HDF5 = Format("HDF5", (".h5", ".hdf5", ".hdf"), _read, _damaged, _explain)
