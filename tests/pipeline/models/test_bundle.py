"""The bundle: a file from which the same events come on any machine, in any number of parts."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from kantor.config import Training
from kantor.data.samples import read_split
from kantor.errors import InputError
from kantor.models.bundle import Bundle
from kantor.training.assembly import assemble


@pytest.fixture(scope="module")
def bundle(weighted_manifest: Path, small_training: Training) -> Bundle:
    return assemble(small_training, 1, weighted_manifest).bundle("small", {"why": "test"})


MOMENTA = np.linspace(1, 10, 20_000, dtype=np.float32)[:, None]


def test_saved_and_loaded_it_generates_the_same(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "model.pt")
    again = Bundle.load(tmp_path / "model.pt")
    assert np.array_equal(bundle.generate(100, MOMENTA[:100], seed=3), again.generate(100, MOMENTA[:100], seed=3))
    assert (again.feature_names, again.condition_names) == (["response", "width"], ["momentum"])
    assert again.conditions[0].unit == "GeV"
    assert again.training == bundle.training
    assert again.provenance == {"why": "test"}
    assert again.condition_limits() == bundle.condition_limits()


def test_it_knows_the_range_of_its_training_s_conditions(bundle: Bundle, weighted_manifest: Path) -> None:
    momenta = read_split(weighted_manifest, "train").conditions
    assert bundle.condition_limits() == {"momentum": (momenta.min(), momenta.max())}


def test_it_loads_without_running_code(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=True)["name"] == "small"


def test_parts_join_to_the_whole(bundle: Bundle) -> None:
    whole = bundle.generate(20_000, MOMENTA, seed=3)
    cuts = [0, 1, 8191, 8193, 20_000]
    parts = [bundle.generate(b - a, MOMENTA[a:b], seed=3, start=a) for a, b in pairwise(cuts)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, bundle.generate(20_000, MOMENTA, seed=4))


def test_conditions_are_needed_and_their_shape_checked(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"needs conditions of shape \(10, 1\) \(momentum\), got none"):
        bundle.generate(10)
    with pytest.raises(InputError, match=r"got shape \(9, 1\)"):
        bundle.generate(10, MOMENTA[:9])


def test_what_is_not_a_bundle_is_said_so(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match="there is no such file"):
        Bundle.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="is not a model bundle"):
        Bundle.load(path)
    bundle.save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is not a model bundle"):
        Bundle.load(path)
    torch.save({"format": 999}, path)
    with pytest.raises(InputError, match="another version"):
        Bundle.load(path)
