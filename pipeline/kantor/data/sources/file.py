"""Events from the user's own files: one piece for each file. Staging has resolved patterns in their paths."""

from collections.abc import Iterator, Mapping, Sequence

from kantor import config
from kantor.data import readers
from kantor.data.sources.base import Chunk, Source
from kantor.machine.inputs import refuse_twice
from kantor.results import Column


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
        wanted = settings.features | settings.conditions
        columns = {*wanted.values()} if settings.weight is None else {*wanted.values(), settings.weight}
        request = readers.Request(tuple(sorted(columns)), self._rows, settings.table, settings.header)
        for table in readers.read(settings.paths[piece], request):
            weights = None if settings.weight is None else table[settings.weight]
            yield Chunk({name: table[column] for name, column in wanted.items()}, weights)

    def describe(self) -> str:
        paths = self._settings.paths
        return paths[0] if len(paths) == 1 else f"{len(paths):,} files"

    def origin(self, piece: int) -> Mapping[str, str | int]:
        return {"source": self._settings.model_copy(update={"paths": [self._settings.paths[piece]]}).canonical()}

    def _columns(self, names: Mapping[str, str]) -> list[Column]:
        return [Column(name=name, unit=self._settings.units.get(name, "")) for name in names]
