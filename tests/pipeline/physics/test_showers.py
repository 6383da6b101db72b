"""Quantities of showers: those of events worked out by hand, the same as expressions, each law broken once."""

from typing import Any

import numpy as np
import pytest
import torch

from kantor import config
from kantor.errors import InputError
from kantor.expressions import Expression
from kantor.physics.showers import Showers
from kantor.results import Column

COLUMNS = [
    Column(name="front", unit="MeV", shape=(2, 3)),
    Column(name="back", unit="MeV", shape=(1, 4)),
    Column(name="energy", unit="GeV"),
    Column(name="showers", unit="MeV", shape=(2, 4, 3)),
]


def physics(**changes: Any) -> Showers:
    basic = {"kind": "showers", "layers": ["front", "back"], "energy": "energy", "scale": 1000}
    return Showers(config.ShowerPhysics.model_validate(basic | changes), {}, COLUMNS)


def event() -> dict[str, np.ndarray]:
    front, back = np.zeros((3, 2, 3)), np.zeros((3, 1, 4))
    front[0] = [[0, 3, 0], [0, 0, 1]]
    back[0] = [[6, 0, 0, 0]]
    front[1, 0, 0] = 2
    return {"front": front, "back": back, "energy": np.array([0.02, 0.004, 0.01])}


def test_quantities_worked_out_by_hand() -> None:
    found = physics(size=[20.0, 12.0], axes=["eta", "phi"]).derive(event())
    expected = {
        "E_tot": [10, 2, 0],
        "response": [0.5, 0.5, 0],
        "depth": [0.6, 0, 0],
        "depth_width": [0.24**0.5, 0, 0],
        "E_0": [4, 2, 0],
        "E_1": [6, 0, 0],
        "share_1": [0.6, 0, 0],
        "sparsity_0": [2 / 6, 1 / 6, 0],
        "sparsity_1": [1 / 4, 0, 0],
        "gap_0": [2 / 3, 1, 0],
        # Cells are 10 along eta and 4 along phi in front, 3 along phi behind, around the middle.
        "centre_eta_0": [(-5 * 3 + 5) / 4, -5, 0],
        "centre_phi_0": [1, -4, 0],
        "width_eta_0": [(25 - 2.5**2) ** 0.5, 0, 0],
        "width_phi_0": [(4 - 1) ** 0.5, 0, 0],
        "centre_phi_1": [-4.5, 0, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-6, err_msg=name)
    assert "centre_eta_1" not in found


def test_a_cylinder_has_angle_and_radius() -> None:
    showers = np.zeros((2, 2, 4, 3))
    showers[0, 1, 2, 0], showers[0, 1, 2, 2] = 1, 3  # at 45 degrees, radii 5 and 25 of 30
    showers[1, 0, :, 1] = 2
    cylinder = physics(layers=["showers"], geometry="cylinder", size=[30.0])
    found = cylinder.derive({"showers": showers, "energy": np.array([0.01, 0.01])})
    np.testing.assert_allclose(found["centre_x_1"], [20 / 2**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(found["centre_y_1"], [20 / 2**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(found["width_x_1"], [(475 / 2 - 200) ** 0.5, 0], atol=1e-5)
    np.testing.assert_allclose(found["centre_x_0"], [0, 0], atol=1e-6)
    np.testing.assert_allclose(found["width_x_0"], [0, 15 / 2**0.5], atol=2e-6)
    np.testing.assert_allclose(found["depth"], [1, 0], atol=1e-9)


def test_a_cylinder_may_be_uneven() -> None:
    showers = np.zeros((2, 2, 4, 3))
    showers[0, 1, 2, 0], showers[0, 1, 2, 2] = 1, 3  # at 45 degrees, radii 1 and 20
    showers[1, 0, :, 1] = 2
    uneven = physics(layers=["showers"], geometry="cylinder", radii={"showers": [0.0, 2.0, 10.0, 30.0]})
    found = uneven.derive({"showers": showers, "energy": np.array([0.01, 0.01])})
    np.testing.assert_allclose(found["centre_x_1"], [15.25 / 2**0.5, 0], atol=1e-6)
    np.testing.assert_allclose(found["width_x_0"], [0, 6 / 2**0.5], atol=2e-6)
    with pytest.raises(InputError, match=r"its layer 'showers\[0\]' has 3 cells along the radius, and 3 edges"):
        physics(layers=["showers"], geometry="cylinder", radii={"showers": [0.0, 2.0, 10.0]})


def test_one_angle_has_a_radius_only() -> None:
    edges = {"front": [0.0, 1.0, 2.0, 3.0], "back": [0.0, 2.0, 10.0, 30.0, 40.0]}
    rings = event() | {"back": np.array([[[1.0, 0, 3, 0]], [[0.0, 2, 0, 0]], [[0.0, 0, 0, 0]]])}
    found = physics(geometry="cylinder", radii=edges).derive(rings)
    np.testing.assert_allclose(found["centre_r_1"], [15.25, 6, 0])
    np.testing.assert_allclose(found["width_r_1"], [((1 + 3 * 400) / 4 - 15.25**2) ** 0.5, 0, 0], atol=2e-6)
    assert "centre_x_1" not in found
    assert "centre_x_0" in found


def test_expressions_are_for_critics_too_and_differentiable_where_layers_are_empty() -> None:
    known, columns = physics(), event()
    tensors = {name: torch.from_numpy(values).requires_grad_() for name, values in columns.items()}
    assert set(known.expressions) == {each.name for each in known.observables} == set(known.classified)
    for name, text in known.expressions.items():
        of = Expression(text).rows(tensors, torch, 3)
        np.testing.assert_allclose(of.detach().numpy(), known.derive(columns)[name], atol=1e-9)
        # What counts hits has steps, not slopes.
        assert of.requires_grad == (not name.startswith("sparsity"))
        if not of.requires_grad:
            continue
        for gradient in torch.autograd.grad(of.sum(), list(tensors.values()), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_laws() -> None:
    columns = event()
    columns["front"][1, 1, 1] = -0.1
    columns["back"][2, 0, 3] = 0.5
    broken = {law.name: law.broken(columns).tolist() for law in physics(threshold=1.0).laws}
    assert broken == {"energy_sign": [False, True, False], "threshold": [False, False, True]}
    assert [law.name for law in physics().laws] == ["energy_sign"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"layers": ["side"]}, "feature 'side' is not there or no array"),
        ({"layers": ["energy"]}, "feature 'energy' is not there or no array"),
        ({"layers": ["front", "showers"]}, "a layer has one or two axes; 'showers' has 2 x 4 x 3"),
        ({"energy": "p"}, "there is no 'p'"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        physics(**changes)


def test_settings_that_contradict_themselves() -> None:
    uneven = {"radii": {"front": [0.0, 1.0], "back": [0.0, 1.0]}}
    partly = {"geometry": "cylinder", "radii": {"front": [0.0, 1.0]}}
    for changes in ({"axes": ["x"]}, {"size": [1.0]}, {"geometry": "cylinder", "size": [1.0, 2.0]}, uneven, partly):
        with pytest.raises(ValueError, match=r"axes|size|radii"):
            physics(**changes)
