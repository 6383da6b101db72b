"""Derived critic features: computed in physical units, standardised, differentiable."""

import pytest
import torch

from kantor import config
from kantor.errors import ConfigError, InputError
from kantor.models.features import CriticFeatures
from kantor.models.transforms import Transforms

ROWS = torch.rand(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
EXPRESSIONS = {"pT": "sqrt(px**2 + py**2)", "pz_over_pT": "pz / pT"}


def fitted(
    expressions: dict[str, str], conditions: tuple[str, ...] = ()
) -> tuple[CriticFeatures, torch.Tensor, torch.Tensor]:
    names = ("px", "py", "pz")
    features, given = names[: 3 - len(conditions)], conditions
    chains: dict[str, list[config.Transform]] = {"px": [config.Log(kind="log"), config.Standardise()]}
    x, c = Transforms(features, chains).double(), Transforms(given, {}).double()
    x_ND, c_NC = ROWS[:, : len(features)], ROWS[:, len(features) :]
    x.fit(x_ND)
    c.fit(c_NC)
    view = CriticFeatures(expressions, x, c).double()
    view.fit(x(x_ND), c(c_NC))
    return view, x(x_ND), c(c_NC)


def test_features_are_those_of_physical_units() -> None:
    view, x_ND, c_NC = fitted(EXPRESSIONS)
    seen = view(x_ND, c_NC)
    pT = ROWS[:, :2].norm(dim=1)
    expected = torch.stack([pT, ROWS[:, 2] / pT], dim=1)
    expected = (expected - expected.mean(0)) / expected.std(0, correction=0)
    assert seen.shape == (500, 5)
    assert torch.allclose(seen[:, 3:], expected, rtol=1e-9, atol=1e-9)


def test_conditions_may_be_used() -> None:
    view, x_ND, c_NC = fitted({"ratio": "px / pz"}, conditions=("pz",))
    ratio = ROWS[:, 0] / ROWS[:, 2]
    assert torch.allclose(view(x_ND, c_NC)[:, 2], (ratio - ratio.mean()) / ratio.std(correction=0))


def test_gradients_pass_through() -> None:
    view, x_ND, c_NC = fitted(EXPRESSIONS)
    assert torch.autograd.gradcheck(lambda x: view(x, c_NC[:3]), (x_ND[:3].clone().requires_grad_(),))


def test_unknown_column_is_named() -> None:
    with pytest.raises(ConfigError, match=r"critic_features\.bad.*'mass'"):
        CriticFeatures({"bad": "mass * 2"}, Transforms(["px"], {}), Transforms([], {}))


def test_not_finite_is_named() -> None:
    with pytest.raises(InputError, match=r"critic_features\.bad: is not finite in 500"):
        fitted({"bad": "log(px - 10)"})


def test_expressions_of_arrays_may_give_several_numbers() -> None:
    e = torch.rand(500, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    features = Transforms(["e"], {}, shapes={"e": (3, 4)}).double()
    conditions = Transforms(["E"], {}).double()
    E = torch.rand(500, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1
    features.fit(e)
    conditions.fit(E)
    view = CriticFeatures({"total": "sum(e) / E", "rows": "sum(e, 1)"}, features, conditions).double()
    x, c = features(e), conditions(E)
    view.fit(x, c)
    seen = view(x, c)
    assert (view.size, seen.shape) == (16, (500, 16))
    rows = e.view(500, 3, 4).sum(2)
    expected = torch.cat([(rows.sum(1) / E[:, 0])[:, None], rows], dim=1)
    assert torch.allclose(seen[:, 12:], (expected - expected.mean(0)) / expected.std(0, correction=0), atol=1e-9)
    assert torch.autograd.gradcheck(lambda x: view(x, c[:3]), (x[:3].clone().requires_grad_(),))
