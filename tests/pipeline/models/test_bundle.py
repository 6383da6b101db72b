"""The bundle: a file from which the same events come on any machine, in any number of parts."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from kantor.config import Training
from kantor.cuts import Cuts
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


def test_what_is_drawn_is_the_same_in_parts(dis_manifest: Path, tmp_path: Path) -> None:
    """The azimuth comes from the seed and the block, not from how many events are asked for."""
    drawn = Training.model_validate(
        {"dataset": "dis", "objective": {"kind": "wgan_gp"}, "coordinates": [{"kind": "dis"}]}
    )
    made = assemble(drawn, 1, dis_manifest)
    assert made.rows.real.shape[1] == 2  # and nothing for the azimuth
    made.bundle("drawn", {}).save(tmp_path / "model.pt")
    bundle = Bundle.load(tmp_path / "model.pt")
    whole = bundle.generate(20_000, seed=3)
    assert np.array_equal(whole[8000:8300], bundle.generate(300, seed=3, start=8000))
    phi = np.arctan2(whole[:, 1], whole[:, 0])
    assert abs(np.exp(1j * phi).mean()) < 4 / 20_000**0.5
    assert not np.array_equal(whole, bundle.generate(20_000, seed=4))


# Of an untrained generator, about half of the events pass, whatever the momentum.
CUTS, QUANTITIES = ["excess > -4.6", "width < 1.8"], {"excess": "response - momentum"}


def passing(bundle: Bundle, events: np.ndarray, momenta: np.ndarray) -> np.ndarray:
    columns = {"response": events[:, 0], "width": events[:, 1], "momentum": momenta[:, 0]}
    return Cuts(bundle.cuts, bundle.quantities).passing({name: of.astype(np.float64) for name, of in columns.items()})


def test_generated_events_obey_the_cuts_in_any_parts(bundle: Bundle, tmp_path: Path) -> None:
    """What fails is drawn again, event by event: parts join to the whole, and what passed at first stays."""
    replace(bundle, cuts=CUTS, quantities=QUANTITIES).save(tmp_path / "model.pt")
    cut = Bundle.load(tmp_path / "model.pt")
    free, drawn = bundle.generate(20_000, MOMENTA, seed=3), cut.draw(20_000, MOMENTA, seed=3)
    failed = ~passing(cut, free, MOMENTA)
    assert 0.05 < failed.mean() < 0.95
    assert np.array_equal(drawn.redrawn, failed)
    assert np.array_equal(drawn.events[~failed], free[~failed])
    assert passing(cut, drawn.events, MOMENTA).all()
    assert np.array_equal(drawn.events, cut.generate(20_000, MOMENTA, seed=3))
    for a, b in pairwise([0, 1, 8191, 8193, 8300, 20_000]):
        part = cut.draw(b - a, MOMENTA[a:b], seed=3, start=a)
        assert np.array_equal(part.events, drawn.events[a:b])
        assert np.array_equal(part.redrawn, failed[a:b])


def test_an_event_that_never_passes_is_given_up(bundle: Bundle) -> None:
    never = replace(bundle, cuts=["width < 4", "response > 1e6"])
    with pytest.raises(InputError, match=r"50 of 50 events fail the cuts in each of 3 tries: width < 4 and response"):
        never.draw(50, MOMENTA[:50], tries=3)
    drawn = never.draw(50, MOMENTA[:50], tries=3, strict=False)
    assert drawn.redrawn.all()
    assert np.isfinite(drawn.events).all()


def test_what_is_not_finite_is_not_hidden_by_drawing_it_again(bundle: Bundle) -> None:
    broken = replace(bundle, generator=deepcopy(bundle.generator), cuts=["width < 4"])
    with torch.no_grad():
        for parameter in broken.generator.parameters():
            parameter.fill_(float("nan"))
    drawn = broken.draw(50, MOMENTA[:50])
    assert not drawn.redrawn.any()
    assert np.isnan(drawn.events).all()


def test_a_bundle_of_before_has_no_cuts(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    for key in ("cuts", "quantities"):
        del content[key]
    torch.save(content, tmp_path / "old.pt")
    old = Bundle.load(tmp_path / "old.pt")
    assert np.array_equal(old.generate(100, MOMENTA[:100]), bundle.generate(100, MOMENTA[:100]))


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
