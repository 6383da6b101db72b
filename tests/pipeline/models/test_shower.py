"""Coordinates of showers: there and back exactly, closed by construction, clear about units and thresholds."""

import time
from typing import Any, cast

import numpy as np
import pytest
import torch

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms import Given, Transforms
from kantor.models.transforms.shower import Shower

THRESHOLD = 0.02
SHAPES = {"layer_0": (3, 8), "layer_1": (4, 4), "layer_2": (4, 2)}
NAMES = list(SHAPES)
ROWS = 600


def showers(seed: int = 1, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 48) of three layers [MeV], voxels 0 or above the threshold, and incident energies (N,) [GeV].

    Some have no energy in the last layer, some in the first, one none at all; one voxel is never hit.
    """
    rng = np.random.default_rng(seed)
    energy = np.exp(rng.uniform(0, 3, rows))
    total = 1000 * energy * np.clip(rng.normal(0.93, 0.03, rows), 0.5, 1.0)
    layers = rng.dirichlet([4, 10, 2], rows) * total[:, None]
    parts = []
    for k, shape in enumerate(SHAPES.values()):
        share = rng.gamma(0.15, 1.0, (rows, int(np.prod(shape)))) + 1e-12
        parts.append(share / share.sum(1, keepdims=True) * layers[:, k : k + 1])
    parts[0][:, 5] = 0
    parts[2][: rows // 5] = 0
    parts[0][rows // 5 : rows // 4] = 0
    x_ND = np.concatenate(parts, axis=1)
    x_ND[x_ND < THRESHOLD] = 0
    x_ND[7] = 0
    x_ND[8, 30] = THRESHOLD
    return torch.from_numpy(x_ND), torch.from_numpy(energy)


def settings(**changes: Any) -> config.Shower:
    basic = {"kind": "shower", "layers": NAMES, "energy": "energy", "scale": 1000, "threshold": THRESHOLD}
    return config.Shower.model_validate(basic | changes)


def fitted(x_ND: torch.Tensor, energy_N: torch.Tensor, **changes: Any) -> Transforms:
    transforms = Transforms(NAMES, {}, shapes=SHAPES, coordinates=[settings(**changes)]).double()
    transforms.fit(x_ND, given=Given({"energy": energy_N}, torch.Generator().manual_seed(1)))
    return transforms


def shower_of(transforms: Transforms) -> Shower:
    return cast(Shower, transforms.maps[0])


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("noisy", [True, False])
def test_physical_showers_come_back(closed: bool, noisy: bool) -> None:
    x_ND, energy_N = showers()
    transforms = fitted(x_ND, energy_N, closed=closed)
    given = Given({"energy": energy_N})
    y_ND = transforms(x_ND, Given(given.conditions, torch.Generator().manual_seed(2)) if noisy else given)
    assert y_ND.shape == (ROWS, 48 + 3)
    back_ND = transforms.inverse(y_ND, given)
    assert torch.equal(back_ND == 0, x_ND == 0)
    assert (x_ND == 0).double().mean() > 0.2
    assert torch.allclose(back_ND, x_ND, rtol=1e-8, atol=0)


def test_in_single_precision_to_its_rounding() -> None:
    x_ND, energy_N = showers()
    x_ND, energy_N = x_ND.float(), energy_N.float()
    transforms = fitted(x_ND, energy_N).float()
    y_ND = transforms(x_ND, Given({"energy": energy_N}, torch.Generator().manual_seed(2)))
    back_ND = transforms.inverse(y_ND, Given({"energy": energy_N}))
    assert y_ND.dtype == back_ND.dtype == torch.float32
    assert torch.equal(back_ND == 0, x_ND == 0)
    filled = x_ND > 0
    assert ((back_ND - x_ND).abs()[filled] <= 1e-4 * x_ND[filled] + 1e-6 * THRESHOLD).all()


def test_coordinates_are_those_of_the_paper() -> None:
    x_ND, energy_N = showers()
    transforms = fitted(x_ND, energy_N, largest=1.2)
    given = Given({"energy": energy_N})
    layers = [x_ND[:, :24], x_ND[:, 24:40], x_ND[:, 40:]]
    sums = torch.stack([layer.sum(1) for layer in layers], dim=1)
    full = (sums > 0).all(1)
    map_ = shower_of(transforms)
    y_NE = transforms(x_ND, given) * map_.deviation + map_.mean
    u_NE = (y_NE.sigmoid() - 1e-6) / (1 - 2e-6)
    expected = [sums.sum(1) / (1200 * energy_N), sums[:, 0] / sums.sum(1), sums[:, 1] / sums[:, 1:].sum(1)]
    for column, values in enumerate(expected):
        assert torch.allclose(u_NE[full, column], values[full], rtol=1e-9)
    filled = (x_ND[:, 24:40] > 0) & full[:, None]
    assert torch.allclose(u_NE[:, 27:43][filled], (layers[1] / sums[:, 1:2])[filled], rtol=1e-6, atol=1e-12)


def test_they_are_standard_and_weighted() -> None:
    x_ND, energy_N = showers(rows=4000)
    transforms = fitted(x_ND, energy_N)
    y_NE = transforms(x_ND, Given({"energy": energy_N}, torch.Generator().manual_seed(3)))
    varies = ~shower_of(transforms).constant
    assert (~varies).nonzero().flatten().tolist() == [3 + 5]
    assert torch.allclose(y_NE[:, varies].mean(0), torch.zeros(50).double(), atol=0.1)
    assert torch.allclose(y_NE[:, varies].std(0), torch.ones(50).double(), atol=0.1)
    repeated, weighted = (
        Transforms(NAMES, {}, shapes=SHAPES, coordinates=[settings(largest=1.2)]).double() for _ in "ab"
    )
    weights = torch.tensor([2.0, 1.0, 0.0]).repeat(1334)[:4000]
    rows = torch.arange(4000).repeat_interleave(weights.long())
    repeated.fit(x_ND[rows], given=Given({"energy": energy_N[rows]}))
    weighted.fit(x_ND, weights, Given({"energy": energy_N}))
    assert torch.allclose(shower_of(repeated).mean, shower_of(weighted).mean, atol=1e-10)
    assert torch.allclose(shower_of(repeated).deviation, shower_of(weighted).deviation, atol=1e-10)


def wild(rows: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    y_NE = 3 * torch.randn(rows, 51, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return y_NE, torch.linspace(0.001, 30, rows, dtype=torch.float64)


def test_what_is_generated_is_closed_and_obeys_the_threshold() -> None:
    transforms = fitted(*showers())
    y_NE, energy_N = wild()
    x_ND = transforms.inverse(y_NE, Given({"energy": energy_N}))
    assert ((x_ND == 0) | (x_ND >= THRESHOLD)).all()
    assert (x_ND[:, 5] == 0).all()
    # The total is that of its coordinate, less layers below the threshold.
    map_ = shower_of(transforms)
    share = ((y_NE[:, 0] * map_.deviation[0] + map_.mean[0]).sigmoid() - 1e-6) / (1 - 2e-6)
    total = share.clamp(0, 1) * map_.response * 1000 * energy_N
    found = x_ND.sum(1)
    assert (found <= total * (1 + 1e-9) + THRESHOLD * 1e-2).all()
    assert (found >= total * (1 - 1e-9) - 3 * THRESHOLD).all()


def test_what_is_not_closed_is_what_the_voxels_say() -> None:
    transforms, closed = fitted(*showers(), closed=False), fitted(*showers())
    y_NE, energy_N = wild()
    free, bound = (each.inverse(y_NE, Given({"energy": energy_N})) for each in (transforms, closed))
    assert ((free == 0) | (free >= THRESHOLD)).all()
    off = (free.sum(1) / bound.sum(1).clamp(min=THRESHOLD) - 1).abs()
    assert off.median() > 0.1


def test_one_array_of_layers() -> None:
    x_ND, energy_N = showers()
    x_ND = x_ND[:, :24]
    cylinder = config.Shower.model_validate(settings().model_dump() | {"layers": ["showers"], "expected": (1e-4, 5)})
    one = Transforms(["eta", "showers"], {}, shapes={"showers": (3, 4, 2)}, coordinates=[cylinder]).double()
    several = Transforms(
        NAMES, {}, shapes=dict.fromkeys(NAMES, (8,)), coordinates=[settings(expected=(1e-4, 5))]
    ).double()
    eta = torch.linspace(-1, 1, ROWS, dtype=torch.float64)[:, None]
    given = Given({"energy": energy_N})
    both = torch.cat([eta, x_ND], dim=1)
    one.fit(both, given=given)
    several.fit(x_ND, given=given)
    y = one(both, given)
    assert torch.allclose(y[:, :27], several(x_ND, given), atol=1e-12)
    assert torch.allclose(y[:, 27], (eta[:, 0] - eta.mean()) / eta.std(correction=0))
    assert torch.allclose(one.inverse(y, given), both, rtol=1e-8, atol=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND, energy_N = showers()
    given = Given({"energy": energy_N})
    whole = fitted(x_ND, energy_N)
    y_NE = whole(x_ND, given)
    back_ND = whole.inverse(y_NE, given)
    monkeypatch.setattr("kantor.models.transforms.shower._AT_ONCE", 51 * 7)
    assert torch.allclose(whole(x_ND, given), y_NE, rtol=1e-14, atol=1e-14)
    assert torch.allclose(whole.inverse(y_NE, given), back_ND, rtol=1e-14)
    assert torch.allclose(
        shower_of(fitted(x_ND, energy_N, largest=1.2)).mean[1:3], shower_of(whole).mean[1:3], atol=0.1
    )


def test_gradients_pass_back() -> None:
    x_ND, energy_N = showers()
    transforms = fitted(x_ND, energy_N)
    given = Given({"energy": energy_N[20:24]})
    y_NE = transforms(x_ND[20:24], given).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: transforms.inverse(y, given).sum(1), (y_NE,), atol=1e-3)
    assert torch.autograd.grad(transforms.inverse(y_NE, given).square().sum(), y_NE)[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (
            "negative",
            r"energies are negative in 2 training rows, the first in layer_1\[1\]\[2\] of row 3: -5",
            "layers",
        ),
        ("incident", "2 training rows have an incident energy of 0 or less", "column 'energy'"),
        ("units", r"more than 0\.0009\d* times the incident energy 'energy'.* a factor of 1,000 off", "scale"),
        ("threshold", r"\d+ % of the energy is in voxels below the threshold of 1000", "threshold"),
        ("largest", "the largest energy of a shower over the incident energy is ", "largest"),
    ],
)
def test_what_is_wrong_is_named(change: str, what: str, where: str) -> None:
    x_ND, energy_N = showers()
    changes: dict[str, Any] = {}
    match change:
        case "negative":
            x_ND[3:5, 24 + 6] = -5.0
        case "incident":
            energy_N[:2] = 0.0
        case "units":
            x_ND, changes = x_ND / 1000, {"threshold": THRESHOLD / 1000}
        case "threshold":
            changes = {"threshold": 1000}
        case "largest":
            changes = {"largest": 0.5}
    with pytest.raises(InputError, match=what) as caught:
        fitted(x_ND, energy_N, **changes)
    assert where in str(caught.value.where)
    assert caught.value.exit_code == 2
    assert caught.value.cure


def test_voxels_of_a_whole_calorimeter_are_fitted_at_once() -> None:
    """6,480 voxels in a hundredth of a data set's rows: no loop over voxels, a hundredth of a minute and some."""
    rng = np.random.default_rng(3)
    x_ND = torch.from_numpy(rng.gamma(0.2, 1.0, (1000, 6480)).astype(np.float32))
    x_ND[x_ND < 0.01] = 0
    energy_N = x_ND.sum(1)
    cylinder = config.Shower.model_validate(
        {"kind": "shower", "layers": ["showers"], "energy": "energy", "threshold": 0.01}
    )
    transforms = Transforms(["showers"], {}, shapes={"showers": (45, 16, 9)}, coordinates=[cylinder]).double()
    began = time.process_time()
    transforms.fit(x_ND, given=Given({"energy": energy_N}, torch.Generator().manual_seed(1)))
    assert time.process_time() - began < 5
    y_NE = transforms.float()(x_ND, Given({"energy": energy_N}))
    assert torch.allclose(transforms.inverse(y_NE, Given({"energy": energy_N})), x_ND, rtol=1e-3)
