"""Events from the user's own files: one piece for each file. Staging has resolved patterns in their paths."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kantor import config
from kantor.data import readers
from kantor.data.sources.base import Chunk, Source
from kantor.machine.inputs import refuse_twice
from kantor.results import Column
from kantor.shapes import width

_MOST_NUMBERS = 1 << 24  # of a chunk


class Files(Source):
    """Columns of files, by the names that the configuration gives them."""

    def __init__(self, settings: config.FileSource, rows: int) -> None:
        self._settings, self._rows = settings, rows

    @property
    def features(self) -> Sequence[Column]:
        return self._columns(self._settings.features)

    @property
    def conditions(self) -> Sequence[Column]:
        return self._columns(self._settings.conditions)

    def check(self) -> None:
        refuse_twice(self._settings.paths)

    @property
    def pieces(self) -> int:
        return len(self._settings.paths)

    def chunks(self, piece: int) -> Iterator[Chunk]:
        settings = self._settings
        wanted = {name: _column(of) for name, of in (settings.features | settings.conditions).items()}
        columns = {*wanted.values()} if settings.weight is None else {*wanted.values(), settings.weight}
        rows = max(1, min(self._rows, _MOST_NUMBERS // width(list(wanted), settings.shapes)))
        shapes = {wanted[name]: shape for name, shape in settings.shapes.items()}
        request = readers.Request(tuple(sorted(columns)), rows, settings.table, settings.header, shapes)
        for table in readers.read(settings.paths[piece], request):
            weights = None if settings.weight is None else table[settings.weight]
            yield Chunk({name: table[column] for name, column in wanted.items()}, weights)

    def describe(self) -> str:
        paths = self._settings.paths
        return paths[0] if len(paths) == 1 else f"{len(paths):,} files"

    def origin(self, piece: int) -> Mapping[str, str | int]:
        return {"source": self._settings.model_copy(update={"paths": [self._settings.paths[piece]]}).canonical()}

    def where(self, piece: int) -> str:
        return self._settings.paths[piece]

    def _columns(self, names: Iterable[str]) -> list[Column]:
        units, shapes = self._settings.units, self._settings.shapes
        return [Column(name=name, unit=units.get(name, ""), shape=shapes.get(name, ())) for name in names]


def _column(settings: str | config.ArrayColumn) -> str:
    """The column of the file."""
    return settings if isinstance(settings, str) else settings.column
