"""From a model to a file of events: in blocks, on all ranks and threads, the same whatever their number.

The work is cut into pieces that depend on the model and the numbers of the events only. Ranks take pieces in turn, the
threads of a rank those of the rank, each a piece by itself; the root writes them in their order.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from kantor.data.readers import Table
from kantor.errors import InputError
from kantor.generation.conditions import Conditions, Survey, stored
from kantor.generation.writers import Format, Layout, Written, format_of
from kantor.machine.files import sha256, whole, write_text
from kantor.machine.progress import Progress, log
from kantor.machine.ranks import Ranks
from kantor.models.bundle import BLOCK, Bundle
from kantor.results import Column
from kantor.shapes import named, width

T = TypeVar("T")
S = TypeVar("S")
# Numbers of a piece, as far as its least size allows: large enough to be worth a call, small enough for every memory.
_MOST_NUMBERS = 1 << 20


@dataclass(frozen=True)
class Order:
    """What is wanted of a model.

    events: how many; None: one for each row of `conditions`.
    conditions: a file of them; table: its tree or group; carried: columns of it that go into the output, too.
    seed, start: the events are numbers start, start + 1, ... of the endless sample that the seed fixes.
    strict: refuse conditions outside of the training's range.
    """

    model: Path
    out: Path
    events: int | None = None
    conditions: str | None = None
    table: str | None = None
    carried: Sequence[str] = ()
    seed: int = 0
    start: int = 0
    strict: bool = False


def generate(order: Order, ranks: Ranks, threads: int = 1) -> None:
    """Write the events, whole or not at all; every rank calls this, and the root writes.

    Args:
        threads: how many each rank uses, each for pieces of its own.

    Raises:
        InputError: the model, the conditions or the request cannot be used, or the file cannot be written.
    """
    model = Bundle.load(order.model)
    columns = _columns(model, order)
    format = format_of(order.out, columns)
    conditions = _conditions(model, order)
    numbers = width([*model.feature_names, *model.condition_names], model.shapes)
    rows = BLOCK * max(1, min(16, _MOST_NUMBERS // (BLOCK * numbers)))
    survey = Survey(order.events or 0)
    if conditions is not None:
        (survey,) = ranks.gather(1, lambda _: conditions.survey(rows))
    _judge(survey, model, order, ranks)
    pieces = _pieces(order.start, survey.rows, rows)
    layout = Layout(columns, survey.rows, _facts(model, order, survey))

    def work(piece: tuple[range, np.ndarray | None]) -> np.ndarray:
        events, given = piece
        return model.generate_stored(len(events), given, seed=order.seed, start=events.start)

    mine = ranks.mine(len(pieces))
    with _one_thread(), ThreadPoolExecutor(threads) as pool:
        own = in_order(pool, work, _with_conditions(pieces, mine, conditions, model), ahead=2 * threads)
        made = ranks.in_turn(len(pieces), own)
        if not ranks.is_root:
            deque(made, maxlen=0)
        else:
            given = [None] * len(pieces) if conditions is None else conditions.blocks(map(len, pieces))
            blocks = (_block(model, columns, *both) for both in zip(made, given, strict=True))
            _write(order.out, format, layout, blocks)
    ranks.barrier()


# ------------------------------------------------------------------------------------------------------- what is wanted


def _columns(model: Bundle, order: Order) -> list[Written]:
    """Features, then conditions, then what is carried along."""
    columns = [
        # float32 cannot hold what it could not hold when it was staged.
        Written(each.name, each.unit, each.shape, np.dtype("f8" if each.offset else "f4"))
        for each in (*model.features, *model.conditions)
    ]
    names = [column.name for column in columns]
    for name in order.carried:
        if order.conditions is None:
            raise InputError(
                f"'{name}' cannot be carried along without a file", where="--carry", cure="name it by --conditions"
            )
        if name in names:
            raise InputError(f"'{name}' stands in the output already", where="--carry", cure="leave it out")
        names.append(name)
        columns.append(Written(name, "", (), np.dtype("f8")))
    return columns


def _conditions(model: Bundle, order: Order) -> Conditions | None:
    """The file of conditions, where the model has any."""
    if model.conditions and order.conditions is None:
        wanted = ", ".join(f"{each} [{each.unit}]" if each.unit else str(each) for each in model.conditions)
        raise InputError(
            f"its events depend on conditions, which it does not know by itself: {wanted}",
            where=order.model,
            cure="give a file with these columns by --conditions, an event is generated for each row",
        )
    if order.conditions is None:
        return None
    if not model.conditions:
        raise InputError(
            "its events depend on no conditions", where=order.model, cure="say how many by --events, without a file"
        )
    return Conditions(order.conditions, model, order.table, order.carried)


def _judge(survey: Survey, model: Bundle, order: Order, ranks: Ranks) -> None:
    """Say what is unusual of the conditions."""
    if not ranks.is_root or not model.conditions:
        return
    limits = model.condition_limits()
    if limits is None:
        log.warning(
            f"{order.model}: was trained before models knew the range of their conditions: none is checked; train it "
            "again to have them checked"
        )
        return
    if not survey.outside:
        return
    what = ", ".join(
        "{} in {:,} (trained on {:.6g} to {:.6g})".format(name, count, *limits[name])
        for name, count in survey.outside.items()
    )
    found = f"of {survey.rows:,} rows, conditions are outside of the range of the training data: {what}"
    if order.strict:
        raise InputError(found, where=order.conditions, cure="remove these rows, or leave --strict out")
    log.warning(f"{order.conditions}: {found}; nobody has seen what the model makes of them")


def _facts(model: Bundle, order: Order, survey: Survey) -> dict[str, object]:
    """Where the events come from. Nothing of this differs between machines and days."""
    facts: dict[str, object] = {
        "kantor": version("kantor"),
        "model": model.name,
        "model_seed": model.seed,
        "model_sha256": sha256(order.model),
        "seed": order.seed,
        "start": order.start,
        "events": survey.rows,
        "config": model.training.model_dump(mode="json"),
    }
    if order.conditions is not None:
        facts["conditions"] = Path(order.conditions).name
        facts["conditions_outside_training"] = None if model.condition_range is None else survey.outside
    return facts


# ----------------------------------------------------------------------------------------------------------- the events


def _pieces(start: int, events: int, rows: int) -> list[range]:
    """Numbers of the events of each piece, cut where the numbers are multiples of `rows`."""
    edges = [start, *range((start // rows + 1) * rows, start + events, rows), start + events]
    return [range(*both) for both in pairwise(edges)]


def _with_conditions(
    pieces: Sequence[range], mine: range, conditions: Conditions | None, model: Bundle
) -> Iterator[tuple[range, np.ndarray | None]]:
    """This rank's pieces, with the conditions (n, C) of their events; everyone reads the file for himself."""
    if conditions is None:
        yield from ((pieces[number], None) for number in mine)
        return
    for number, table in enumerate(conditions.blocks(map(len, pieces))):
        if number in mine:
            yield pieces[number], stored(table, model.conditions)


def in_order(pool: ThreadPoolExecutor, work: Callable[[S], T], items: Iterable[S], ahead: int) -> Iterator[T]:
    """The results of `work`, in the order of the items, of which at most `ahead` are being worked on or wait."""
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def _one_thread() -> Iterator[None]:
    """A product's threads would share what already is shared, and round by their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _block(model: Bundle, columns: Sequence[Written], features: np.ndarray, table: Table | None) -> Table:
    """A piece as it is written: stored features (n, D) and the file's columns -> columns by name."""
    values: Table = _physical(named(features, model.feature_names, model.shapes), model.features) | (table or {})
    return {column.name: values[column.name].astype(column.dtype, copy=False) for column in columns}


def _physical(stored: Mapping[str, np.ndarray], columns: Sequence[Column]) -> Table:
    return {
        each.name: stored[each.name] + np.float64(each.offset) if each.offset else stored[each.name] for each in columns
    }


def _write(out: Path, format: Format, layout: Layout, blocks: Iterable[Table]) -> None:
    progress = Progress(f"generating {out.name}, events", layout.rows)
    broken = 0
    with whole(out) as temporary:
        with format.open(temporary, layout) as write:
            for block in blocks:
                finite = np.all([_finite(values) for values in block.values()], axis=0)
                broken += len(finite) - np.count_nonzero(finite)
                write(block)
                progress.update(progress.done + len(finite))
        if not format.facts:
            write_text(out.with_name(f"{out.name}.json"), layout.provenance + "\n")
    progress.close()
    if broken:
        log.warning(f"{out}: {broken:,} of {layout.rows:,} events hold NaN or infinity")


def _finite(values: np.ndarray) -> np.ndarray:
    """Which rows are finite, (n,) bool."""
    return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))
