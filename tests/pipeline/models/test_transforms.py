"""Transforms: there and back, weighted fits, edges that hold, clear refusals."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats

from kantor import config
from kantor.errors import InputError
from kantor.models.transforms import Given, Transforms
from kantor.models.transforms.columns import QuantileNormal, Standardise

STANDARDISE = config.Standardise()
CHAINS: dict[str, list[config.Transform]] = {
    "standardise": [STANDARDISE],
    "log": [config.Log(kind="log", offset=1.0), STANDARDISE],
    "below": [config.LogDistance(kind="log_distance", edge=50.0), STANDARDISE],
    "above": [config.LogDistance(kind="log_distance", edge=-2.0, side="above"), STANDARDISE],
    "quantile": [config.QuantileNormal(kind="quantile_normal", quantiles=200)],
}


def columns(rows: int = 4000) -> torch.Tensor:
    rng = np.random.default_rng(1)
    below = 50 - rng.exponential(1.0, rows) - 1e-3
    made = [
        rng.normal(3, 2, rows),
        rng.exponential(1.0, rows),
        below,
        rng.exponential(1.0, rows),
        rng.gamma(2, 1, rows),
    ]
    return torch.from_numpy(np.stack(made, axis=1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_round_trip(dtype: torch.dtype, tolerance: float) -> None:
    x_ND = columns().to(dtype)
    transforms = Transforms(list(CHAINS), CHAINS).double()
    transforms.fit(x_ND)
    transforms.to(dtype)
    back_ND = transforms.inverse(transforms(x_ND))
    assert ((back_ND - x_ND).abs() <= tolerance * (1 + x_ND.abs())).all()


def test_transformed_columns_are_standard() -> None:
    x_ND = columns()
    transforms = Transforms(list(CHAINS), CHAINS).double()
    transforms.fit(x_ND)
    y_ND = transforms(x_ND)
    assert torch.allclose(y_ND.mean(0), torch.zeros(5, dtype=torch.float64), atol=0.01)
    assert torch.allclose(y_ND.std(0), torch.ones(5, dtype=torch.float64), atol=0.02)
    assert stats.kstest(y_ND[:, 4].numpy(), "norm").pvalue > 0.5


def test_no_generated_value_crosses_an_edge() -> None:
    transforms = Transforms(["below", "above"], CHAINS)
    transforms.fit(columns()[:, 2:4])
    wild = torch.linspace(-60, 40, 1001)
    x_ND = transforms.inverse(torch.stack([wild, wild], dim=1))
    assert (x_ND[:, 0] <= 50).all()
    assert (x_ND[:, 1] >= -2).all()


def test_weights_are_clipped_at_zero_and_otherwise_count_rows() -> None:
    x_N = torch.tensor([1.0, 2.0, 5.0, 100.0], dtype=torch.float64)
    weighted, repeated = Standardise(STANDARDISE).double(), Standardise(STANDARDISE).double()
    transforms = Transforms(["x"], {}).double()
    transforms.fit(x_N[:, None], torch.tensor([1.0, 3.0, 2.0, -7.0]))
    weighted.fit(x_N, torch.tensor([1.0, 3.0, 2.0, 0.0], dtype=torch.float64))
    repeated.fit(torch.tensor([1.0, 2.0, 2.0, 2.0, 5.0, 5.0], dtype=torch.float64), torch.ones(6, dtype=torch.float64))
    assert torch.equal(transforms(x_N[:, None])[:, 0], weighted(x_N))
    assert torch.allclose(weighted(x_N), repeated(x_N), rtol=1e-14)


def test_weighted_quantiles() -> None:
    rng = np.random.default_rng(2)
    x_N = torch.from_numpy(rng.uniform(0, 1, 20_000))
    transform = QuantileNormal(config.QuantileNormal(kind="quantile_normal", quantiles=101)).double()
    transform.fit(x_N, x_N)  # density 2x: the median lies at sqrt(1/2)
    assert transform.inverse(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(0.5**0.5, abs=0.01)


def test_a_spike_is_generated_as_a_spike() -> None:
    x_N = torch.cat([torch.zeros(500), torch.linspace(1, 2, 500)]).double()
    transform = QuantileNormal(config.QuantileNormal(kind="quantile_normal", quantiles=100)).double()
    transform.fit(x_N, torch.ones(1000).double())
    generated = transform.inverse(torch.randn(10_000, generator=torch.Generator().manual_seed(1)).double())
    assert (generated == 0).double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_a_constant_column_is_no_division_by_zero() -> None:
    transforms = Transforms(["x"], {})
    transforms.fit(torch.full((10, 1), 3.0))
    assert torch.equal(transforms(torch.full((2, 1), 3.0)), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("chain", "value"), [("log", -1.0), ("below", 50.0), ("above", -2.0)], ids=["log", "below", "above"]
)
def test_values_outside_the_domain_are_refused_by_name(chain: str, value: float) -> None:
    x_ND = torch.full((5, 1), value)
    with pytest.raises(InputError, match=f"column '{chain}'.*5 training rows"):
        Transforms([chain], CHAINS).fit(x_ND)


def test_gradients_pass_back_through_every_inverse() -> None:
    transforms = Transforms(list(CHAINS), CHAINS).double()
    transforms.fit(columns())
    y_ND = (
        0.1 + 0.5 * torch.rand(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ).requires_grad_()
    assert torch.autograd.gradcheck(transforms.inverse, (y_ND,))


ARRAY_CHAINS: dict[str, list[config.Transform]] = {
    "standardise": [STANDARDISE],
    "log": [config.Log(kind="log", offset=1.0), STANDARDISE],
    "edge": [config.LogDistance(kind="log_distance", edge=-1.0, side="above"), STANDARDISE],
    "quantile": [config.QuantileNormal(kind="quantile_normal", quantiles=200)],
}


@pytest.mark.parametrize("name", ARRAY_CHAINS)
def test_an_array_is_transformed_as_its_elements_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kantor.models.transforms.columns._AT_ONCE", 3000)
    rng = np.random.default_rng(5)
    x_ND = torch.from_numpy(rng.gamma(2.0, 1.0, (1000, 6)) * np.arange(1, 7))
    weights = torch.from_numpy(rng.uniform(0.5, 1.5, 1000))
    x_ND[:, 4] = 2.5
    array = Transforms(["e"], {"e": ARRAY_CHAINS[name]}, shapes={"e": (2, 3)}).double()
    single = Transforms(list("abcdef"), dict.fromkeys("abcdef", ARRAY_CHAINS[name])).double()
    array.fit(x_ND, weights)
    single.fit(x_ND, weights)
    assert array.constant_columns == ()
    assert array.constant.tolist() == single.constant.tolist() == [False, False, False, False, True, False]
    assert torch.allclose(array(x_ND), single(x_ND), rtol=1e-12, atol=1e-12)
    assert torch.allclose(array.inverse(array(x_ND)), x_ND, rtol=1e-11)
    assert array.physical(array(x_ND))["e"].shape == (1000, 2, 3)


def dequantise(**settings: Any) -> list[config.Transform]:
    return [config.Dequantise.model_validate({"kind": "dequantise", **settings}), STANDARDISE]


def test_exact_values_are_spread_and_snapped_back() -> None:
    rng = np.random.default_rng(6)
    x_N = np.where(rng.random(4000) < 0.4, 0.0, 0.1 + rng.exponential(1.0, 4000))
    x_ND = torch.from_numpy(np.stack([x_N, rng.permutation(x_N)], axis=1).astype(np.float32))
    transforms = Transforms(["e"], {"e": dequantise(interval=[0.0, 0.1])}, shapes={"e": (2,)}).double()
    noise = torch.Generator().manual_seed(1)
    transforms.fit(x_ND, given=Given(noise=noise))
    y_ND = transforms(x_ND, Given(noise=noise))
    spikes = x_ND == 0
    standardise = cast(list[Standardise], transforms.chains[0])[1]
    spread = (y_ND * standardise.deviation + standardise.mean)[spikes]
    assert stats.kstest(10 * spread.numpy(), "uniform").pvalue > 0.01
    assert torch.allclose(transforms.inverse(y_ND), x_ND.double(), rtol=1e-12)
    assert torch.equal(transforms.inverse(y_ND) == 0, spikes)
    # Nothing lies below: what a generator puts there is a zero, too.
    assert (transforms.inverse(y_ND - 10)[spikes] == 0).all()
    # The same seed spreads in the same way, in any precision; none spreads to the middle.
    again = [
        transforms.to(kind)(x_ND.to(kind), Given(noise=torch.Generator().manual_seed(2)))
        for kind in (torch.float64, torch.float32)
    ]
    assert torch.allclose(again[0], again[1].double(), atol=1e-5)
    assert len(transforms(x_ND)[spikes[:, 0], 0].unique()) == 1


def test_a_threshold_in_single_precision_is_met() -> None:
    x_ND = torch.from_numpy(np.where(np.arange(100) % 2, 0.1, np.linspace(1, 2, 100)).astype(np.float32))[:, None]
    transforms = Transforms(["x"], {"x": dequantise(value=0.1, interval=[-0.5, 0.5])})
    transforms.fit(x_ND)
    assert torch.equal(transforms.inverse(transforms(x_ND))[1::2], x_ND[1::2])
    assert (transforms(x_ND)[1::2] < transforms(x_ND)[::2].min()).all()


def test_an_exact_value_between_others_keeps_them_apart() -> None:
    x_ND = torch.tensor([-3.0, -2.0, 0.0, 0.0, 2.0, 4.0], dtype=torch.float64)[:, None]
    transforms = Transforms(["x"], {"x": dequantise(interval=[-1.0, 1.0])}).double()
    transforms.fit(x_ND)
    assert torch.allclose(transforms.inverse(transforms(x_ND)), x_ND)
    with pytest.raises(InputError, match=r"column 'x'.*2 training values in the interval -2 to 1 are not 0"):
        Transforms(["x"], {"x": dequantise(interval=[-2.0, 1.0])}).fit(torch.cat([x_ND, x_ND[:2]])[1:])
    with pytest.raises(ValueError, match="1 is not below -1"):
        dequantise(interval=[1.0, -1.0])
