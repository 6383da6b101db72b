"""Staging: from a source of events to shards and their manifest.

A source comes in pieces (blocks of generated events, or the user's files), which MPI ranks and processes share. A piece
becomes the same shards whoever makes it, and nothing enters the dataset's directory before every piece is done.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from math import prod
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TypeVar

import h5py
import numpy as np

from kantor.config import Dataset, Split
from kantor.cuts import Cuts
from kantor.data.fineness import Fineness, Offsets, check_fineness, check_weight, shifted
from kantor.data.manifest import FILE_NAME, Dropped, Manifest, Shard, SplitRows
from kantor.data.samples import LEAST_ROWS, check_enough
from kantor.data.sources import Chunk, Source, make_source
from kantor.errors import InputError, KantorError
from kantor.machine.files import explained, sync_directory, whole
from kantor.machine.progress import Progress, log
from kantor.machine.ranks import Ranks
from kantor.results import Column, shapes_of
from kantor.shapes import Shapes, elements, named, slices, width

T = TypeVar("T")
_SHARDS = "shard-*.h5"
_WEIGHT = ""  # beside the names of columns
_UNFINISHED = ".staging"  # directory below the dataset's, where this run's shards wait until all are there


@dataclass
class Part:
    """What became of one piece."""

    shards: list[Shard] = field(default_factory=list)
    rows: int = 0
    read: int = 0
    invalid: int = 0
    cut: int = 0
    failing: dict[str, int] = field(default_factory=dict)
    first_failing: str = ""
    invalid_in: dict[str, int] = field(default_factory=dict)
    first_invalid: str = ""
    weight: float = 0.0
    squares: float = 0.0
    # Of each column, and of the weight as "".
    fineness: dict[str, Fineness] = field(default_factory=dict)
    facts: list[object] = field(default_factory=list)


def stage(name: str, dataset: Dataset, out: Path, ranks: Ranks, processes: int) -> Manifest:
    """Write the shards and the manifest of a dataset into the directory `out`; every rank calls this.

    The bytes of the shards depend on `dataset` only, not on `ranks` or `processes`. An earlier dataset in `out` stays
    until this one is complete, and is then replaced as a whole.

    Args:
        processes: how many processes each rank starts.

    Returns:
        The manifest, on every rank.

    Raises:
        InputError: the source cannot be read, rows are invalid or none is left, or `out` cannot be written. Nothing of
            this run is left behind then.
    """
    unfinished = out / _UNFINISHED
    try:
        # Patterns of paths are resolved once: files may come while ranks read.
        resolved = _on_root(ranks, lambda: _prepare(dataset, out))
        parts = _make_parts(name, resolved, unfinished, ranks, processes, {})
        offsets = _on_root(ranks, lambda: _offsets(name, resolved, unfinished, parts))
        if offsets:
            parts = _make_parts(name, resolved, unfinished, ranks, processes, offsets)
        return _on_root(ranks, lambda: _finish(name, resolved, out, parts, offsets))
    finally:
        if ranks.is_root:
            shutil.rmtree(unfinished, ignore_errors=True)


def _prepare(dataset: Dataset, out: Path) -> Dataset:
    """Refuse what can be refused before any work is done; the dataset with the files that are there."""
    dataset = dataset.model_copy(update={"source": dataset.source.resolved()})
    _source(dataset).check()
    _check_cuts(dataset)
    if dataset.source.most_rows is not None:
        # Simulations take minutes: what they cannot be enough for is said before.
        _split_rows(dataset.split, dataset.source.most_rows)
    _check_overwriting(dataset, out)
    unfinished = out / _UNFINISHED
    with explained(out):
        # A run that was killed may have left its own.
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
        (unfinished / "writable").write_bytes(b"")
    return dataset


def _source(dataset: Dataset) -> Source:
    return make_source(dataset.source, dataset.shard_rows)


def _check_cuts(dataset: Dataset) -> None:
    source = _source(dataset)
    one_row = {column.name: np.ones((1, *column.shape)) for column in [*source.features, *source.conditions]}
    _cuts(dataset).passing(one_row)


def _cuts(dataset: Dataset) -> Cuts:
    return Cuts(dataset.cuts, dataset.quantities)


def _check_overwriting(dataset: Dataset, out: Path) -> None:
    for path in map(Path, dataset.source.files):
        if path.resolve().parent == out.resolve() and path.match(_SHARDS):
            raise InputError("this input would be overwritten", where=path, cure="stage into another directory")


# -------------------------------------------------------------------------------------------------------- many pieces


def _make_parts(
    name: str, dataset: Dataset, unfinished: Path, ranks: Ranks, processes: int, offsets: Offsets
) -> list[Part]:
    """All pieces of the dataset, shared by ranks and processes."""
    source = _source(dataset)
    pieces = source.pieces
    mine = ranks.mine(pieces)
    if ranks.is_root:
        log.info(f"staging {name}: {source.describe()}")
    progress = Progress(f"staging {name}, pieces", pieces)
    failures: list[KantorError] = []
    futures: dict[int, Future[Part]] = {}
    with ExitStack() as stack:
        if min(processes, len(mine)) > 1:
            # Spawned, because forking a process that has joined an MPI world is not safe.
            pool = ProcessPoolExecutor(
                min(processes, len(mine)), mp_context=get_context("spawn"), initializer=_end_with_parent
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            futures = {piece: pool.submit(make_part, dataset, piece, unfinished, offsets) for piece in mine}

        def work(piece: int) -> Part | KantorError | None:
            if failures:
                return None
            made = _attempt(
                futures[piece].result if futures else lambda: make_part(dataset, piece, unfinished, offsets)
            )
            if isinstance(made, KantorError):
                failures.append(made)
            if ranks.is_root:
                progress.update(min(pieces, piece + ranks.size))
            return made

        made = ranks.gather(pieces, work)
    for part in made:
        if isinstance(part, KantorError):
            raise part
    if ranks.is_root:
        progress.close()
    return [part for part in made if isinstance(part, Part)]


def _end_with_parent() -> None:
    """End this process when the one that started it is gone; a pool's processes would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _attempt(work: Callable[[], T]) -> T | KantorError:
    """The result of `work`, or its failure as a value: a rank that raised alone would leave the others waiting."""
    try:
        return work()
    except KantorError as error:
        return error
    except BrokenProcessPool:
        return InputError(
            "a staging process was killed, perhaps because memory ran out", cure="use fewer processes or shard_rows"
        )
    except Exception as error:
        log.exception("staging failed")
        return KantorError(f"staging failed: {type(error).__name__}: {error}")


def _on_root(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do something on the root only; every rank gets the result, or raises the failure."""
    (result,) = ranks.gather(1, lambda _: _attempt(work))
    if isinstance(result, KantorError):
        raise result
    return result


# ---------------------------------------------------------------------------------------------------------- one piece


def make_part(dataset: Dataset, piece: int, directory: Path, offsets: Offsets) -> Part:
    """Read one piece and write its shards into `directory`; columns with an offset are stored less it."""
    source, part = _source(dataset), Part()
    waiting: list[np.ndarray] = []
    for chunk in source.chunks(piece):
        waiting.append(_clean(chunk, dataset, offsets, part, source.where(piece)))
        while sum(map(len, waiting)) >= dataset.shard_rows:
            rows = np.concatenate(waiting)
            _write_shard(source, piece, directory, rows[: dataset.shard_rows], offsets, part)
            waiting = [rows[dataset.shard_rows :]]
    rows = np.concatenate(waiting) if waiting else np.empty((0, 0), dtype=np.float32)
    if len(rows):
        _write_shard(source, piece, directory, rows, offsets, part)
    return part


def _clean(chunk: Chunk, dataset: Dataset, offsets: Offsets, part: Part, where: str) -> np.ndarray:
    """The rows that are valid and pass the cuts, (n, D) float32, with the weights as the last column."""
    given = chunk.columns if chunk.weights is None else {**chunk.columns, _WEIGHT: chunk.weights}
    shapes = {name: values.shape[1:] for name, values in given.items() if values.ndim > 1}
    with np.errstate(over="ignore"):
        stored = np.concatenate(
            [_flat((values - offsets.get(name, 0)).astype(np.float32)) for name, values in given.items()], axis=1
        )
    finite = np.isfinite(stored)
    valid = finite.all(axis=1)
    if not valid.all():
        _note_invalid(finite, list(given), shapes, part, where)
        stored = stored[valid]
        given = {name: values[valid] for name, values in given.items()}
    cuts = _cuts(dataset)
    passes = cuts.each(given)
    _note_failing(passes, np.flatnonzero(valid), part, where)
    passing = np.logical_and.reduce([*passes.values(), np.ones(len(stored), dtype=bool)])
    _measure(given, named(stored, list(given), shapes), offsets, passing, part)
    if dataset.cuts:
        # The cuts see what is stored, so that they hold for the staged rows exactly.
        values = {
            name: column.astype(np.float64) + offsets.get(name, 0)
            for name, column in named(stored, list(given), shapes).items()
        }
        passing = cuts.passing(values)
    kept = stored[passing]
    part.read += len(finite)
    part.invalid += len(finite) - len(stored)
    part.cut += len(stored) - len(kept)
    part.rows += len(kept)
    weights = np.ones(len(kept)) if chunk.weights is None else kept[:, -1].astype(np.float64)
    part.weight += float(weights.sum())
    part.squares += float(weights @ weights)
    if chunk.facts is not None:
        part.facts.append(chunk.facts)
    return kept


def _flat(values: np.ndarray) -> np.ndarray:
    """(n, *shape) as (n, size)."""
    return values.reshape(len(values), prod(values.shape[1:]))


def _note_invalid(finite: np.ndarray, names: Sequence[str], shapes: Shapes, part: Part, where: str) -> None:
    """Note in how many rows of this chunk each column is not finite, (n, D) bool, and the first place of all."""
    for name, columns in slices(names, shapes).items():
        count = np.count_nonzero(~finite[:, columns].all(axis=1))
        if count:
            part.invalid_in[name or "the weight"] = part.invalid_in.get(name or "the weight", 0) + int(count)
    if not part.first_invalid:
        row, column = np.argwhere(~finite)[0]
        name = elements(names, shapes)[column] or "the weight"
        part.first_invalid = f"{name} in row {part.read + row:,} of {where}, counted from 0"


def _note_failing(passes: Mapping[str, np.ndarray], rows: np.ndarray, part: Part, where: str) -> None:
    """Note how many of the rows (n,) of this chunk fail each cut as they were given, and the first place of all."""
    for cut, passed in passes.items():
        if failing := int(np.count_nonzero(~passed)):
            part.failing[cut] = part.failing.get(cut, 0) + failing
    failing = ~np.logical_and.reduce([*passes.values(), np.ones(len(rows), dtype=bool)])
    if failing.any() and not part.first_failing:
        part.first_failing = f"row {part.read + int(rows[failing.argmax()]):,} of {where}, counted from 0"


def _measure(
    given: Mapping[str, np.ndarray],
    stored: Mapping[str, np.ndarray],
    offsets: Offsets,
    passing: np.ndarray,
    part: Part,
) -> None:
    """Note what the columns lose in float32, in the rows that pass the cuts as they were given."""
    if not passing.any():
        return
    for name, values in given.items():
        found = Fineness.of(values[passing].ravel(), stored[name][passing].ravel(), offsets.get(name, 0))
        part.fineness[name] = Fineness.of_all([*filter(None, [part.fineness.get(name)]), found])


def _write_shard(source: Source, piece: int, directory: Path, rows: np.ndarray, offsets: Offsets, part: Part) -> None:
    # HDF5 reports a full disk in odd ways, even when it closes a file: the file is made in memory and written plainly.
    content = _shard_bytes(source, piece, rows, offsets)
    path = directory / f"piece-{piece:08d}-{len(part.shards):08d}.h5"
    with whole(path) as temporary:
        temporary.write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    part.shards.append(Shard(file=path.name, rows=len(rows), bytes=len(content), sha256=checksum))


def _shard_bytes(source: Source, piece: int, rows: np.ndarray, offsets: Offsets) -> bytes:
    """A shard as HDF5. The same rows give the same bytes: it holds no times, and is neither chunked nor compressed."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["kantor"] = version("kantor")
        for name, value in source.origin(piece).items():
            file.attrs[name] = value
        end = 0
        for group, columns in (("features", source.features), ("conditions", source.conditions)):
            begin, end = end, end + width([column.name for column in columns], shapes_of(columns))
            if columns:
                _write_columns(file, group, rows[:, begin:end], shifted(columns, offsets))
        # What is left is the weight.
        if rows.shape[1] > end:
            file.create_dataset("weights", data=rows[:, -1], track_times=False)
    return content.getvalue()


def _write_columns(file: h5py.File, name: str, values: np.ndarray, columns: Sequence[Column]) -> None:
    written = file.create_dataset(name, data=values, track_times=False)
    written.attrs["names"] = [column.name for column in columns]
    written.attrs["units"] = [column.unit for column in columns]
    if any(column.offset for column in columns):
        written.attrs["offsets"] = [column.offset for column in columns]
    if any(column.shape for column in columns):
        written.attrs["shapes"] = [json.dumps(column.shape) for column in columns]


# ------------------------------------------------------------------------------------------------------ the whole set


def _offsets(name: str, dataset: Dataset, unfinished: Path, parts: Sequence[Part]) -> Offsets:
    """The offsets without which columns would lose their values; the pieces are then made again, with them."""
    found = _fineness(parts)
    found.pop(_WEIGHT, None)
    offsets = {column: fineness.offset for column, fineness in found.items() if fineness.is_lost}
    if offsets:
        what = ", ".join(f"'{column}' less {offset:.15g}" for column, offset in offsets.items())
        log.info(f"staging {name}: float32 is too coarse for the values as they are; reading again, to store {what}")
        _remove_shards(unfinished, "piece-*.h5")
    return offsets


def _fineness(parts: Sequence[Part]) -> dict[str, Fineness]:
    names = dict.fromkeys(name for part in parts for name in part.fineness)
    return {name: Fineness.of_all(part.fineness[name] for part in parts if name in part.fineness) for name in names}


def _finish(name: str, dataset: Dataset, out: Path, parts: Sequence[Part], offsets: Offsets) -> Manifest:
    """Judge what all pieces gave, and put the dataset in place."""
    source = _source(dataset)
    _check_rows(dataset, source, parts)
    drafts = [shard for part in parts for shard in part.shards]
    shards = [shard.model_copy(update={"file": f"shard-{n:04d}.h5"}) for n, shard in enumerate(drafts)]
    rows = sum(shard.rows for shard in shards)
    manifest = Manifest(
        kantor=version("kantor"),
        dataset=name,
        features=shifted(source.features, offsets),
        conditions=shifted(source.conditions, offsets),
        weighted=dataset.source.weighted,
        shards=shards,
        rows=rows,
        dropped=Dropped(invalid=sum(part.invalid for part in parts), cuts=sum(part.cut for part in parts)),
        split=_split_rows(dataset.split, rows),
        source=dataset.source.model_dump(mode="json"),
        cuts=dataset.cuts,
        quantities=dataset.quantities,
        physics=dataset.physics or source.physics,
        constants=dict(source.constants),
        generator=source.facts([facts for part in parts for facts in part.facts]),
    )
    _publish(manifest, drafts, out)
    _report(manifest)
    return manifest


def _check_rows(dataset: Dataset, source: Source, parts: Sequence[Part]) -> None:
    read, invalid, rows = (sum(getattr(part, name) for part in parts) for name in ("read", "invalid", "rows"))
    if invalid and dataset.invalid_rows == "error":
        counts = _summed(part.invalid_in for part in parts)
        where = ", ".join(f"{column} {count:,}" for column, count in counts.items())
        first = next(part.first_invalid for part in parts if part.first_invalid)
        raise InputError(
            f"{invalid:,} of {read:,} rows hold NaN, infinity or numbers too large for float32 ({where}); the first is "
            f"{first}",
            where=source.describe(),
            cure="mend the input, or set invalid_rows: drop",
        )
    failing = _summed(part.failing for part in parts)
    if failing and dataset.failing_rows == "error":
        said = ", ".join(f"{count:,} fail '{cut}'" for cut, count in failing.items())
        first = next(part.first_failing for part in parts if part.first_failing)
        raise InputError(
            f"of {read - invalid:,} valid rows, {said}; the first is {first}",
            where=source.describe(),
            cure="correct 'cuts' to those that the events were made with, or set failing_rows: drop",
        )
    if rows == 0:
        raise InputError(
            f"no row is left: {read:,} were read, {invalid:,} are invalid, {read - invalid:,} fail the cuts",
            where=source.describe(),
            cure="loosen 'cuts'" if read > invalid else "check the input",
        )
    fineness = _fineness(parts)
    check_weight(fineness.pop(_WEIGHT, None), source.describe())
    check_fineness(fineness, source.describe())
    weight, squares = (sum(getattr(part, name) for part in parts) for name in ("weight", "squares"))
    if weight <= 0:
        raise InputError(
            f"the weights add up to {weight:g}", where=source.describe(), cure="check the column of 'weight'"
        )

    check_enough(weight**2 / squares, "the whole sample", source.describe())


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _split_rows(split: Split, rows: int) -> SplitRows:
    fractions = {"train": split.train, "validation": split.validation, "test": split.test}
    edges = [0, *(round(rows * edge) for edge in np.cumsum(list(fractions.values())))]
    counts = dict(zip(fractions, np.diff(edges).tolist(), strict=True))
    for name, count in counts.items():
        # The test split is compared half against half.
        least = 2 * LEAST_ROWS if name == "test" else LEAST_ROWS
        if count < least:
            raise InputError(
                f"the {name} split has {count:,} rows, {fractions[name]:g} of {rows:,}; at least {least} are needed",
                cure=f"stage more rows, or raise split.{name}",
            )
    return SplitRows(seed=split.seed, **counts)


def _publish(manifest: Manifest, drafts: Sequence[Shard], out: Path) -> None:
    """Replace what is in `out`. Without a manifest there is no dataset: the old one goes first, the new comes last."""
    unfinished = out / _UNFINISHED
    manifest.write(unfinished / FILE_NAME)
    with explained(out):
        (out / FILE_NAME).unlink(missing_ok=True)
        try:
            _remove_shards(out)
            for draft, shard in zip(drafts, manifest.shards, strict=True):
                (unfinished / draft.file).rename(out / shard.file)
            (unfinished / FILE_NAME).rename(out / FILE_NAME)
            sync_directory(out)
        except BaseException:
            _remove_shards(out)
            raise


def _remove_shards(out: Path, names: str = _SHARDS) -> None:
    for path in out.glob(names):
        path.unlink()


def _report(manifest: Manifest) -> None:
    log.info(f"staged {manifest.dataset}: {manifest.rows:,} rows in {len(manifest.shards):,} shards")
    if manifest.generator is not None:
        facts = manifest.generator
        known = [facts.data] if facts.data is not None else []
        if facts.cross_section is not None:
            known.append(f"cross section {facts.cross_section:.4g} ± {facts.cross_section_error:.2g} nb")
        log.info(": ".join([f"  {facts.name} {facts.version}", *filter(None, [", ".join(known)])]))
    if manifest.dropped.invalid or manifest.dropped.cuts:
        log.info(f"  dropped: {manifest.dropped.invalid:,} invalid rows, {manifest.dropped.cuts:,} fail the cuts")
