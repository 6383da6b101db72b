"""Spikes, grids and hard edges: exact there and back, and right in marginals and correlations of what is generated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from kantor.config import MuonSource, RichSource, Training
from kantor.data.sources.muon import MuonTracks
from kantor.data.sources.rich import RichTracks
from kantor.data.sources.tracks import collide
from kantor.errors import InputError
from kantor.models.transforms import Given, Transforms

STANDARDISE = {"kind": "standardise"}


def made(names: Sequence[str], chains: Mapping[str, list[dict[str, Any]]], *coordinates: dict[str, Any]) -> Transforms:
    """Transforms as a configuration says them."""
    settings = {"dataset": "d", "objective": {"kind": "wgan_gp"}, "transforms": chains, "coordinates": coordinates}
    training = Training.model_validate(settings)
    return Transforms(names, training.transforms, coordinates=training.coordinates).double()


def noise(seed: int = 1) -> Given:
    return Given(noise=torch.Generator().manual_seed(seed))


def fitted(transforms: Transforms, x_ND: Tensor) -> Tensor:
    """The training rows as the networks see them."""
    transforms.fit(x_ND, given=noise())
    return transforms(x_ND, noise())


# ----------------------------------------------------------------------------------------------------------- one column


def test_a_spike_among_values_arbitrarily_near() -> None:
    rng = np.random.default_rng(1)
    x_N = torch.from_numpy(np.where(rng.random(4000) < 0.4, 0.0, rng.laplace(0, 1, 4000) ** 3).astype(np.float32))
    x_ND = x_N[:, None].double()
    transforms = made(["x"], {"x": [{"kind": "spike", "width": 1.0}]})
    y_ND = fitted(transforms, x_ND)
    spike_ND = x_ND == 0
    assert stats.kstest(y_ND[spike_ND].numpy() + 0.5, "uniform").pvalue > 0.01
    assert (y_ND[~spike_ND].abs() > 0.5).all()
    back_ND = transforms.inverse(y_ND)
    assert torch.equal(back_ND == 0, spike_ND)
    assert torch.allclose(back_ND, x_ND, rtol=1e-12, atol=1e-15)
    # No two values change their order, so that a network may move mass across.
    order = y_ND[~spike_ND].argsort()
    assert (x_ND[~spike_ND][order].diff() >= 0).all()


def test_a_spike_at_an_edge_keeps_it() -> None:
    rng = np.random.default_rng(2)
    x_ND = torch.from_numpy(np.maximum(rng.normal(1, 1, 2000), 0))[:, None]
    transforms = made(["x"], {"x": [{"kind": "spike", "width": 0.5}, STANDARDISE]})
    fitted(transforms, x_ND)
    assert transforms.inverse(torch.linspace(-9, 9, 500).double()[:, None]).min() == 0
    with pytest.raises(InputError, match=r"column 'x'.*no training value is exactly 3"):
        made(["x"], {"x": [{"kind": "spike", "value": 3.0, "width": 0.5}]}).fit(x_ND)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step, origin", [(1.0, 0.0), (0.1, 0.05), (2.0, -1.0), (3.0e-5, 0.0)])
def test_a_grid_comes_back_as_it_was_stored(dtype: torch.dtype, step: float, origin: float) -> None:
    rng = np.random.default_rng(3)
    places = rng.integers(-3, 40, 1000)
    x_ND = torch.from_numpy((origin + step * places).astype(np.float32))[:, None]
    transforms = made(["x"], {"x": [{"kind": "quantised", "step": step, "origin": origin}, STANDARDISE]})
    transforms.fit(x_ND.double(), given=noise())
    transforms.to(dtype)
    y_ND = transforms(x_ND.to(dtype), noise())
    assert torch.equal(transforms.inverse(y_ND).float(), x_ND)
    assert len(y_ND.unique()) > 990
    # Beyond the training values nothing is generated.
    far = transforms.inverse(torch.tensor([[-50.0], [50.0]], dtype=dtype))
    assert far.flatten().tolist() == pytest.approx([origin - 3 * step, origin + 39 * step])


def test_values_off_the_grid_are_refused() -> None:
    x_ND = torch.tensor([[0.0], [1.0], [2.5]], dtype=torch.float64)
    with pytest.raises(InputError, match=r"column 'x'.*1 training values are not 0 plus a multiple of 1, such as 2\.5"):
        made(["x"], {"x": [{"kind": "quantised"}]}).fit(x_ND)


def test_an_offset_moves_the_grid_and_the_spike() -> None:
    settings = {"dataset": "d", "objective": {"kind": "wgan_gp"}}
    for chain in (
        [{"kind": "quantised", "step": 2.0, "origin": 1.0}],
        [{"kind": "spike", "value": 1005.0, "width": 1}],
    ):
        training = Training.model_validate({**settings, "transforms": {"x": chain}})
        transforms = Transforms(["x"], training.transforms, offsets={"x": 1000.0}).double()
        x_ND = torch.tensor([[1.0], [5.0], [5.0], [7.0]], dtype=torch.float64)  # 1001, 1005, 1005, 1007
        y_ND = fitted(transforms, x_ND)
        assert torch.equal(transforms.inverse(y_ND), x_ND)
        assert y_ND[1] != y_ND[2]


def test_an_array_has_a_grid_in_each_element() -> None:
    x_ND = torch.tensor([[0.0, 4.0], [1.0, 6.0], [1.0, 5.0]], dtype=torch.float64)
    training = Training.model_validate(
        {"dataset": "d", "objective": {"kind": "wgan_gp"}, "transforms": {"x": [{"kind": "quantised"}]}}
    )
    transforms = Transforms(["x"], training.transforms, shapes={"x": (2,)}).double()
    assert torch.equal(transforms.inverse(fitted(transforms, x_ND)), x_ND)
    assert transforms.inverse(torch.full((1, 2), 9.0).double()).tolist() == [[1.0, 6.0]]


# ------------------------------------------------------------------------------------------------ what detectors answer

# The differences are 0 where particles emit no light, and arbitrarily small where they emit little.
TIED = {
    "kind": "expressions",
    "forward": {"DLLk": "DLLk", "pk": "DLLp - DLLk", "btp": "DLLbt - DLLp"},
    "inverse": {"DLLk": "DLLk", "DLLp": "DLLk + pk", "DLLbt": "DLLk + pk + btp"},
    "transforms": {
        "DLLk": [{"kind": "spike", "width": 5.0}, STANDARDISE],
        "pk": [{"kind": "spike", "width": 5.0}, STANDARDISE],
        "btp": [{"kind": "spike", "width": 5.0}, STANDARDISE],
    },
}


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    """DLLs, MuonDLL and IsMuon of the same tracks, as staged."""
    rng = np.random.default_rng(4)
    tracks = collide(6000, seed=2)
    sources = RichTracks(RichSource(kind="rich"), 1000), MuonTracks(MuonSource(kind="muon"), 1000)
    return {
        name: values.astype(np.float32)
        for source in sources
        for name, values in zip(source.names, source.respond(tracks, rng).T, strict=True)
    } | {"nTracks": tracks.n_tracks.astype(np.float32)}


def test_likelihoods_stay_tied(answers: dict[str, np.ndarray]) -> None:
    """What a network makes of them, here their transformed rows moved a little, has the spikes and the ties."""
    names = ["DLLk", "DLLp", "DLLbt"]
    x_ND = torch.from_numpy(np.stack([answers[name] for name in names], axis=1))
    transforms = made(names, {}, TIED)
    y_ND = fitted(transforms, x_ND.double())
    transforms.float()
    for moved in (0.0, 1e-3):
        z_ND = y_ND + moved * torch.randn(y_ND.shape, generator=torch.Generator().manual_seed(1))
        back = transforms.inverse(z_ND.float())
        for one, other in (("DLLk", "DLLp"), ("DLLp", "DLLbt"), ("DLLk", "DLLbt")):
            i, j = names.index(one), names.index(other)
            tied, was = back[:, i] == back[:, j], x_ND[:, i] == x_ND[:, j]
            assert tied.double().mean().item() == pytest.approx(was.double().mean().item(), abs=0.002 + moved)
        zeros = [(rows == 0).double().mean(0).tolist() for rows in (back, x_ND)]
        assert zeros[0] == pytest.approx(zeros[1], abs=0.002 + moved)
        correlations = [np.corrcoef(rows.double().numpy().T) for rows in (back, x_ND)]
        assert correlations[0] == pytest.approx(correlations[1], abs=1e-3)
        for i in range(3):
            found: Any = stats.ks_2samp(back[:, i].numpy(), x_ND[:, i].numpy(), method="asymp")
            assert found.statistic < 0.01


def test_a_column_by_itself_does_not_stay_tied(answers: dict[str, np.ndarray]) -> None:
    """Why ties need coordinates: standardised columns that move by a thousandth are not equal any more."""
    x_ND = torch.from_numpy(np.stack([answers["DLLp"], answers["DLLbt"]], axis=1)).double()
    transforms = made(["DLLp", "DLLbt"], {})
    y_ND = fitted(transforms, x_ND)
    back = transforms.inverse(y_ND + 1e-3 * torch.randn(y_ND.shape, generator=torch.Generator().manual_seed(1)))
    assert (x_ND[:, 0] == x_ND[:, 1]).double().mean() > 0.8
    assert (back[:, 0] == back[:, 1]).double().mean() < 0.01


def test_a_binary_column_and_what_exists_where_it_holds(answers: dict[str, np.ndarray]) -> None:
    names = ["MuonDLL", "IsMuon", "nTracks"]
    x_ND = torch.from_numpy(np.stack([answers[name] for name in names], axis=1)).double()
    quantised = [{"kind": "quantised"}, STANDARDISE]
    chains = {
        "MuonDLL": [{"kind": "spike", "width": 5.0}, STANDARDISE],
        "IsMuon": quantised,
        "nTracks": quantised,
    }
    transforms = made(names, chains)
    y_ND = fitted(transforms, x_ND)
    back_ND = transforms.inverse(y_ND + 1e-4 * torch.randn(y_ND.shape, generator=torch.Generator().manual_seed(1)))
    assert set(back_ND[:, 1].tolist()) == {0, 1}
    assert torch.equal(back_ND[:, 2], back_ND[:, 2].round())
    assert ((back_ND[:, 0] == 0) == (back_ND[:, 1] == 0)).double().mean() > 0.998
    assert np.corrcoef(back_ND.numpy().T) == pytest.approx(np.corrcoef(x_ND.numpy().T), abs=0.01)
    # Spreading by a step adds its variance of 1/12 and nothing else: correlations of what networks see are known, too.
    spread = 1 / np.sqrt(1 + 1 / (12 * x_ND[:, 2].var().item()))
    seen, true = (np.corrcoef(rows[:, 2], x_ND[:, 0])[0, 1] for rows in (y_ND.numpy(), x_ND.numpy()))
    assert seen == pytest.approx(true * spread, abs=0.02)
