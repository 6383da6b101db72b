"""Staged rows in memory, and the only reader of shards."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import h5py
import numpy as np

from kantor.data.manifest import FILE_NAME, Manifest, Shard
from kantor.errors import InputError
from kantor.machine.progress import log
from kantor.shapes import Shapes, named, width

LEAST_ROWS = 10
"""Effective rows below which a sample is not compared with another, anywhere."""


def check_enough(effective_rows: float, what: str, where: object) -> None:
    """Raise `InputError` where a sample has too few rows to say anything."""
    if not effective_rows >= LEAST_ROWS:
        raise InputError(
            f"{what} has {effective_rows:.3g} effective rows, (sum w)^2 / sum w^2; at least {LEAST_ROWS} are needed",
            where=where,
            cure="use more events, or a larger fraction of them for this split; weights, if any, may cancel",
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """N rows of a dataset as they are stored: float32, in physical units, less the offsets of their columns.

    features: (N, D). conditions: (N, C), with C = 0 where there are none. weights: (N,), of either sign, or None.
    offsets: of the columns that have one, by name. shapes: of the columns that are arrays; each has its place among the
    D or C numbers of a row.
    """

    features: np.ndarray
    conditions: np.ndarray
    weights: np.ndarray | None
    feature_names: tuple[str, ...]
    condition_names: tuple[str, ...] = ()
    offsets: Mapping[str, float] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.features)

    @property
    def effective_rows(self) -> float:
        """(sum w)^2 / sum w^2; the number of rows where there are no weights."""
        if self.weights is None:
            return float(self.rows)
        weights = self.weights.astype(np.float64)
        size = np.square(weights).sum()
        return float(weights.sum() ** 2 / size) if size > 0 else 0.0

    def columns(self) -> dict[str, np.ndarray]:
        """The physical values of every feature and condition by name, (N, *shape); float64 where there is an offset."""
        stored = self.stored_features() | self.stored_conditions()
        return stored | {name: stored[name] + np.float64(offset) for name, offset in self.offsets.items()}

    def stored_features(self) -> dict[str, np.ndarray]:
        """Features by name as they are stored, (N, *shape) each."""
        return named(self.features, self.feature_names, self.shapes)

    def stored_conditions(self) -> dict[str, np.ndarray]:
        """Conditions by name as they are stored, (N, *shape) each."""
        return named(self.conditions, self.condition_names, self.shapes)

    def take(self, index: np.ndarray | slice) -> Self:
        """The rows of `index`, in its order."""
        return replace(
            self,
            features=self.features[index],
            conditions=self.conditions[index],
            weights=None if self.weights is None else self.weights[index],
        )


Split = Literal["train", "validation", "test"]


def read_split(manifest_path: Path, split: Split) -> Sample:
    """`read_splits` of one."""
    return read_splits(manifest_path, split)[0]


def read_splits(manifest_path: Path, *splits: Split, copy: Path | None = None) -> list[Sample]:
    """Read the rows of some splits, each in the order of its permutation.

    Every shard is read once and sequentially; only the rows of the splits stay in memory.

    Args:
        copy: a directory that may hold copies of the shards; one missing or altered is read beside the manifest.

    Raises:
        InputError: the manifest or a shard is missing, or a shard is not the one that was staged.
    """
    manifest = Manifest.read(manifest_path)
    position = np.empty(manifest.rows, dtype=np.int64)
    position[np.random.default_rng(manifest.split.seed).permutation(manifest.rows)] = np.arange(manifest.rows)
    bounds = [manifest.split.bounds(split) for split in splits]
    samples = [_empty(manifest, last - first) for first, last in bounds]
    begin = 0
    for shard in manifest.shards:
        place = position[begin : begin + shard.rows]
        content = _content(shard, manifest_path.parent, copy)
        for sample, (first, last) in zip(samples, bounds, strict=True):
            mine = (place >= first) & (place < last)
            _copy(content, sample, mine, place[mine] - first)
        begin += shard.rows
    return samples


def _empty(manifest: Manifest, rows: int) -> Sample:
    return Sample(
        np.empty((rows, width(manifest.feature_names, manifest.shapes)), dtype=np.float32),
        np.empty((rows, width(manifest.condition_names, manifest.shapes)), dtype=np.float32),
        np.empty(rows, dtype=np.float32) if manifest.weighted else None,
        manifest.feature_names,
        manifest.condition_names,
        manifest.offsets,
        manifest.shapes,
    )


def _content(shard: Shard, directory: Path, copy: Path | None) -> bytes:
    if copy is not None and (copy / shard.file).exists():
        try:
            return verified(copy / shard.file, shard)
        except InputError as error:
            log.info(f"{error.where}: {error.what}; it is read from {directory}")
    return verified(directory / shard.file, shard)


def _copy(content: bytes, sample: Sample, rows: np.ndarray, place: np.ndarray) -> None:
    """Copy the rows of a shard that `rows` marks to `place` in the sample."""
    with h5py.File(io.BytesIO(content), "r") as file:
        sample.features[place] = _array(file, "features")[rows]
        if sample.condition_names:
            sample.conditions[place] = _array(file, "conditions")[rows]
        if sample.weights is not None:
            sample.weights[place] = _array(file, "weights")[rows]


def _array(file: h5py.File, name: str) -> np.ndarray:
    dataset = file[name]
    assert isinstance(dataset, h5py.Dataset)
    return dataset[()]


def verified(path: Path, shard: Shard) -> bytes:
    """The content of a shard, if it is what was staged."""
    cure = f"remove {path.parent / FILE_NAME} and run again: the dataset is then staged again"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError("this shard is missing", where=path, cure=cure) from error
    except OSError as error:
        raise InputError(f"this shard cannot be read: {error.strerror}", where=path, cure=cure) from error
    if len(content) != shard.bytes:
        raise InputError(f"this shard has {len(content):,} bytes instead of {shard.bytes:,}", where=path, cure=cure)
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise InputError("the checksum of this shard is not the manifest's", where=path, cure=cure)
    return content
