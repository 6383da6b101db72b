"""What public data sets have in common: files in a known layout, here or downloaded, checked as they are read."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from kantor import config
from kantor.data import readers
from kantor.data.sources.base import Chunk, Source
from kantor.errors import InputError
from kantor.machine.download import Published, downloaded, folder, place_by_hand
from kantor.machine.inputs import refuse_twice
from kantor.results import Column, shapes_of
from kantor.shapes import Shapes, elements

S = TypeVar("S", bound=config.PublicSource)

_MOST_NUMBERS = 1 << 24  # of a chunk
_EXPECTED = (0.05, 5.0)  # the middle of E_tot / E_inc, in the right units


class PublicFiles(Source, Generic[S]):
    """A public data set: one piece for each file."""

    def __init__(self, settings: S, rows: int) -> None:
        self._settings, self._rows = settings, rows

    @property
    @abstractmethod
    def layout(self) -> Mapping[str, tuple[int, ...]]:
        """Columns of a file that are read, and the shape that an event has in each."""

    @property
    @abstractmethod
    def published(self) -> Sequence[Published]: ...

    @abstractmethod
    def events(self, table: readers.Table, piece: int, row: int) -> Mapping[str, np.ndarray]:
        """Features and conditions of some rows, the first of which is `row` of its file; what is wrong is an error."""

    def check(self) -> None:
        settings = self._settings
        if settings.paths:
            refuse_twice(settings.paths)
            return
        for file in self.published:
            if settings.download:
                downloaded(file)
            elif not (folder() / file.name).is_file():
                raise InputError(
                    f"{file.name} is not here, and nothing is downloaded without being asked",
                    where=folder(),
                    cure=f"set download: true in the source; or {place_by_hand(file)}",
                )

    @property
    def pieces(self) -> int:
        return len(self._settings.paths or self.published)

    def where(self, piece: int) -> str:
        return self._settings.paths[piece] if self._settings.paths else str(folder() / self.published[piece].name)

    def chunks(self, piece: int) -> Iterator[Chunk]:
        shapes = {column: shape for column, shape in self.layout.items() if shape}
        width = sum(int(np.prod(shape)) for shape in self.layout.values())
        request = readers.Request(tuple(self.layout), max(1, min(self._rows, _MOST_NUMBERS // width)), shapes=shapes)
        row = 0
        for table in self._tables(piece, request):
            events = self.events(table, piece, row)
            yield Chunk({column.name: events[column.name] for column in [*self.features, *self.conditions]})
            row += len(next(iter(table.values())))

    def _tables(self, piece: int, request: readers.Request) -> Iterator[readers.Table]:
        try:
            yield from readers.read(self.where(piece), request)
        except InputError as error:
            if "column '" not in error.what:
                raise
            wanted = ", ".join(f"{name} {(*shape,)}" if shape else name for name, shape in self.layout.items())
            raise InputError(
                error.what,
                where=error.where,
                cure=f"this is no file of {self.describe()}, in which an event has: {wanted}",
            ) from error

    def origin(self, piece: int) -> Mapping[str, str | int]:
        return {"source": self._settings.canonical(), "file": self.where(piece)}


def check_showers(
    columns: Mapping[str, np.ndarray], layers: Sequence[Column], scale: float, row: int, where: str
) -> None:
    """Refuse what cannot be showers [MeV] given `energy`, whose unit is `scale` MeV. NaN is left to staging.

    Raises:
        InputError: a deposit is negative, an incident energy is not positive, or their units do not go together.
    """
    shapes, energy = shapes_of(layers), columns["energy"]
    for layer in layers:
        _refuse_negative(columns[layer.name], layer.name, shapes, row, where)
    if np.any(energy <= 0):
        bad = int(np.argmax(energy <= 0))
        raise InputError(
            f"the incident energy of row {row + bad:,} is {energy[bad]:g}; rows are counted from 0",
            where=where,
            cure="remove this row; the published files have none",
        )
    if row > 0:
        return
    total = sum(columns[layer.name].reshape(len(energy), -1).sum(1) for layer in layers)
    ratio = np.asarray(total) / (scale * energy)
    middle = float(np.nanmedian(ratio)) if np.isfinite(ratio).any() else 1.0
    low, high = _EXPECTED
    if low <= middle <= high:
        return
    factor = f", a factor of about {10.0 ** abs(round(np.log10(middle))):,.0f} off" if middle > 0 else ""
    raise InputError(
        f"half of the first {len(energy):,} showers have more than {middle:.3g} times their incident energy; "
        f"expected is about 1{factor}",
        where=where,
        cure=f"convert the file: deposits are in MeV here, incident energies in {'GeV' if scale == 1000 else 'MeV'}",
    )


def _refuse_negative(deposits: np.ndarray, name: str, shapes: Shapes, row: int, where: str) -> None:
    flat = deposits.reshape(len(deposits), -1)
    if not np.any(flat < 0):
        return
    bad, cell = (int(number) for number in np.argwhere(flat < 0)[0])
    raise InputError(
        f"{elements([name], shapes)[cell]} of row {row + bad:,} is {flat[bad, cell]:g} MeV; rows are counted from 0",
        where=where,
        cure="the published files have no negative energies: copy it again; or read it as kind: file",
    )
