"""Units of a staged shard count; one whose columns are stored less an offset is no file of conditions."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from kantor.errors import InputError
from kantor.generation.conditions import _check_units
from kantor.results import Column

MOMENTUM = [Column(name="momentum", unit="GeV")]


def shard(path: Path, unit: str, **attributes: object) -> Path:
    with h5py.File(path, "w") as file:
        written = file.create_dataset("conditions", data=np.ones((3, 1), "f4"))
        written.attrs["names"], written.attrs["units"] = ["momentum"], [unit]
        written.attrs.update(attributes)
    return path


def test_units_of_a_shard(tmp_path: Path) -> None:
    _check_units(shard(tmp_path / "a.h5", "GeV"), MOMENTUM)
    with pytest.raises(InputError, match="'momentum' is in 'MeV', the model has it in 'GeV'"):
        _check_units(shard(tmp_path / "b.h5", "MeV"), MOMENTUM)


def test_offsets_of_a_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'/conditions' is stored less offsets"):
        _check_units(shard(tmp_path / "a.h5", "GeV", offsets=[2.0]), MOMENTUM)
