"""Small datasets of the user's own files."""

from pathlib import Path

import numpy as np
import pytest

from kantor.config import Dataset, FileSource
from kantor.data.manifest import Manifest
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks


class Table:
    """A table on disk: features x, y, condition eta, weights w of either sign; 1000 rows."""

    def __init__(self, directory: Path) -> None:
        rng = np.random.default_rng(7)
        self.directory = directory
        self.path = directory / "table.npz"
        self.columns = {name: rng.normal(size=1000) for name in ("x", "y", "eta")}
        self.columns["w"] = rng.choice([-0.5, 1.0, 2.0], size=1000)
        self.write()

    def write(self, path: Path | None = None) -> Path:
        path = path or self.path
        np.savez(path, **self.columns)  # type: ignore[arg-type]
        return path

    def dataset(self, *paths: Path, **settings: object) -> Dataset:
        source = {
            "kind": "file",
            "paths": [str(path) for path in paths or (self.path,)],
            "features": ["x", "y"],
            "conditions": {"pseudorapidity": "eta"},
            "weight": "w",
            "units": {"x": "GeV"},
        }
        changes = {name: settings.pop(name) for name in list(settings) if name in FileSource.model_fields}
        return Dataset.model_validate({"source": source | changes, **settings})

    def stage(self, *paths: Path, processes: int = 1, **settings: object) -> Manifest:
        return stage("table", self.dataset(*paths, **settings), self.out, Ranks(), processes)

    @property
    def out(self) -> Path:
        return self.directory / "out"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)
