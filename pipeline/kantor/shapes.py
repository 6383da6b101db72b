"""Named arrays in one block of rows: which of the D numbers of an event are which column, and in what shape.

Samples, shards and batches are blocks (N, D), columns beside each other in their order, each in C order.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Column name -> shape of the array that an event has, of the columns that are arrays."""


def slices(names: Sequence[str], shapes: Shapes) -> dict[str, slice]:
    """Where in the numbers of an event each column stands."""
    ends = accumulate((math.prod(shapes.get(name, ())) for name in names), initial=0)
    return {name: slice(*both) for name, both in zip(names, pairwise(ends), strict=True)}


def width(names: Sequence[str], shapes: Shapes) -> int:
    """D, how many numbers of an event these columns are."""
    return sum(math.prod(shapes.get(name, ())) for name in names)


def named(block_ND: Any, names: Sequence[str], shapes: Shapes) -> dict[str, Any]:
    """The columns of a block, an array or a tensor, by name: (N, *shape) each."""
    return {name: taken(block_ND, place, shapes.get(name, ())) for name, place in slices(names, shapes).items()}


def taken(block_ND: Any, place: slice, shape: Shape) -> Any:
    """One column of a block, (N, *shape)."""
    return block_ND[:, place].reshape(len(block_ND), *shape) if shape else block_ND[:, place.start]


def elements(names: Sequence[str], shapes: Shapes) -> list[str]:
    """A name for each of the D numbers: that of the column, or name[0][1] in an array."""
    return [
        name + "".join(f"[{position}]" for position in index)
        for name in names
        for index in np.ndindex(*shapes.get(name, ()))
    ]


def shown(shape: Sequence[int]) -> str:
    """A shape for people."""
    return " x ".join(map(str, shape)) or "one number"
