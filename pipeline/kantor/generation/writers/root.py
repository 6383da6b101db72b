"""ROOT, through uproot: the tree `events` with a branch for each column, arrays as branches of fixed size.

The provenance is a string beside the tree. ROOT notes in every key when it was written, so that the bytes of two files
differ there; the events do not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from kantor.generation.writers.base import Format, Layout, Write
from kantor.machine.packages import optional

TREE = "events"


@contextmanager
def _open(path: Path, layout: Layout) -> Iterator[Write]:
    uproot = optional("uproot", "root", "writing ROOT")
    # Numbers of a network do not compress, and trying is slower than generating them.
    identity = uuid5(NAMESPACE_URL, layout.provenance)
    with uproot.recreate(path, compression=None, uuid_function=lambda: identity) as file:
        file["provenance"] = layout.provenance
        tree = file.mktree(TREE, {column.name: np.dtype((column.dtype, column.shape)) for column in layout.columns})

        def write(block: Mapping[str, np.ndarray]) -> None:
            tree.extend({name: np.ascontiguousarray(values) for name, values in block.items()})

        yield write


ROOT = Format("ROOT", (".root",), _open)
