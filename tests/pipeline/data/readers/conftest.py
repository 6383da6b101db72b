"""Columns of a file, whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kantor.data.readers import Request, read

ReadAll = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def read_all() -> ReadAll:
    def columns(path: Path | str, *names: str, rows: int = 7, **request: object) -> dict[str, np.ndarray]:
        chunks = list(read(path, Request(names, rows=rows, **request)))  # type: ignore[arg-type]
        return {name: np.concatenate([np.empty(0), *(chunk[name] for chunk in chunks)]) for name in names}

    return columns
