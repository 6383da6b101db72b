"""Named arrays in one block: each number of an event has its place and its name."""

import numpy as np
import torch

from kantor.shapes import elements, named, shown, slices, width

NAMES, SHAPES = ("energy", "layer", "overflow"), {"layer": (2, 3), "overflow": (2,)}


def test_a_block_is_taken_apart_and_named() -> None:
    block_ND = np.arange(18.0).reshape(2, 9)
    assert width(NAMES, SHAPES) == 9
    assert slices(NAMES, SHAPES) == {"energy": slice(0, 1), "layer": slice(1, 7), "overflow": slice(7, 9)}
    for block in (block_ND, torch.from_numpy(block_ND)):
        found = named(block, NAMES, SHAPES)
        assert [tuple(values.shape) for values in found.values()] == [(2,), (2, 2, 3), (2, 2)]
        assert found["layer"][1, 1, 0] == block[1, 4]
    names = elements(NAMES, SHAPES)
    assert names[0] == "energy"
    assert names[4] == "layer[1][0]"
    assert names[-1] == "overflow[1]"


def test_scalars_are_columns_as_ever() -> None:
    block_ND = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(named(block_ND, ("x", "y"), {})["y"], block_ND[:, 1])
    assert elements(("x", "y"), {}) == ["x", "y"]
    assert (shown(()), shown((12, 6))) == ("one number", "12 x 6")


def test_no_columns_have_no_width() -> None:
    assert (width((), {}), slices((), {}), elements((), {})) == (0, {}, [])
