"""Coordinates: there and back, at edges too, with finite derivatives; what is declared is checked; clear refusals."""

import re
from math import pi
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from kantor import config
from kantor.errors import InputError
from kantor.models.randomness import stream
from kantor.models.transforms import Given, Transforms
from kantor.models.transforms.coordinates import Coordinates

BEAM, Q2_MIN = 50.0, 2.0
MOMENTUM = ["px", "py", "pz"]
POLAR = {
    "kind": "expressions",
    "forward": {"r": "hypot(px, py)", "phi": "arctan2(py, px)", "slope": "pz / energy"},
    "inverse": {"px": "r * cos(phi)", "py": "r * sin(phi)", "pz": "slope * energy"},
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "plain", "columns": MOMENTUM},
    "cylindrical": {"kind": "cylindrical"},
    "cylindrical, eta": {"kind": "cylindrical", "along": "eta", "transforms": {"pt": [{"kind": "log"}]}},
    "spherical": {"kind": "spherical"},
    "dis": {"kind": "dis", "periodic": ["phi"]},
    "dis, y": {"kind": "dis", "beside": "y", "periodic": ["phi"]},
    "dis, x": {"kind": "dis", "beside": "x", "periodic": ["phi"]},
    "expressions": POLAR | {"periodic": ["phi"]},
}
# Of the coordinates: phi is two numbers, cosine and sine, where it is one.
NUMBERS = {name: 3 if name == "plain" else 4 for name in KINDS}


def electrons(rows: int = 4000, seed: int = 1) -> Tensor:
    """(N, 3) momenta [GeV] with Q2 above its cut, up to rounding of float32, and x below 1."""
    rng = np.random.default_rng(seed)
    q2 = Q2_MIN + np.exp(rng.normal(0, 2, rows)) * 0.5
    y = np.minimum(q2 / 1e4 + np.exp(rng.normal(-2, 1.5, rows)), 0.9)
    phi = rng.uniform(-pi, pi, rows)
    pt = np.sqrt(q2 * (1 - y))
    pz = BEAM * (1 - y) - q2 / (4 * BEAM)
    return torch.from_numpy(np.stack([pt * np.cos(phi), pt * np.sin(phi), pz], axis=1))


def given(rows: int, dtype: torch.dtype = torch.float64) -> Given:
    return Given({"energy": torch.linspace(1, 2, rows, dtype=dtype)})


def made(settings: dict[str, Any]) -> config.AnyCoordinates:
    return TypeAdapter(config.AnyCoordinates).validate_python(settings)


def fitted(settings: dict[str, Any], x_ND: Tensor, columns: list[str] = MOMENTUM) -> Transforms:
    transforms = Transforms(columns, {}, coordinates=[made(settings)]).double()
    transforms.fit(x_ND, given=given(len(x_ND)))
    return transforms


def map_of(transforms: Transforms) -> Coordinates:
    return cast(Coordinates, transforms.maps[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_round_trip(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    x_ND = electrons().to(dtype)
    transforms = fitted(KINDS[kind], x_ND).to(dtype)
    y_NE = transforms(x_ND, given(len(x_ND), dtype))
    assert y_NE.dtype == dtype
    assert y_NE.shape == (len(x_ND), NUMBERS[kind])
    back_ND = transforms.inverse(y_NE, given(len(x_ND), dtype))
    assert back_ND.dtype == dtype
    assert ((back_ND - x_ND).abs() <= tolerance * x_ND.norm(dim=1, keepdim=True)).all()


def test_coordinates_are_what_their_names_say() -> None:
    x_ND = electrons()
    px, py, pz = x_ND.unbind(1)
    p = x_ND.norm(dim=1)
    q2 = 2 * BEAM * (p - pz)
    y = 1 - (p + pz) / (2 * BEAM)
    expected = {
        "pt": (px**2 + py**2).sqrt(),
        "pz": pz,
        "eta": 0.5 * ((p + pz) / (p - pz)).log(),
        "phi": torch.angle(torch.complex(px, py)),
        "p": p,
        "theta": (pz / p).arccos(),
        "q2": q2,
        "y": y,
        "x": q2 / (4 * BEAM * BEAM * y),
    }
    for kind in ("cylindrical", "cylindrical, eta", "spherical", "dis", "dis, y", "dis, x"):
        found = map_of(fitted(KINDS[kind], x_ND)).there(dict(zip(MOMENTUM, (px, py, pz), strict=True)), Given())
        for name, values in found.items():
            assert torch.allclose(values, expected[name], rtol=1e-6, atol=1e-9), (kind, name)


def test_networks_see_standard_numbers_and_a_circle() -> None:
    x_ND = electrons()
    y_NE = fitted(KINDS["dis"], x_ND)(x_ND)
    assert torch.allclose(y_NE[:, :2].mean(0), torch.zeros(2).double(), atol=1e-9)
    assert torch.allclose(y_NE[:, :2].std(0, correction=0), torch.ones(2).double(), rtol=1e-9)
    assert torch.allclose(y_NE[:, 2:].norm(dim=1), torch.ones(len(x_ND)).double())
    assert torch.allclose(torch.atan2(y_NE[:, 3], y_NE[:, 2]), torch.atan2(x_ND[:, 1], x_ND[:, 0]))


def test_no_event_lies_beyond_what_is_unfolded() -> None:
    """Whatever the network says: Q2 not below its cut, pz not above the beam, every number finite, and derivatives."""
    for kind in KINDS:
        transforms = fitted(KINDS[kind], electrons())
        wild_NE = 10 * torch.randn(5000, NUMBERS[kind], generator=torch.Generator().manual_seed(1)).double()
        wild_NE[0] = 0
        wild_NE.requires_grad_()
        x_ND = transforms.inverse(wild_NE, given(5000))
        finite = x_ND.isfinite().all(1)
        (slope_NE,) = torch.autograd.grad(x_ND[finite].sum(), wild_NE)
        assert finite.double().mean() > 0.99, kind
        assert slope_NE[finite].isfinite().all(), kind
        if kind == "dis":
            px, py, pz = x_ND[finite].detach().unbind(1)
            assert (pz <= BEAM).all()
            pt = torch.hypot(px, py)
            energy = torch.hypot(pt, pz)
            q2 = 2 * BEAM * torch.where(pz > 0, pt * (pt / (energy + pz)), energy - pz)
            assert (q2 >= Q2_MIN * (1 - 1e-12)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_the_inverse(kind: str) -> None:
    transforms = fitted(KINDS[kind], electrons())
    # Near the edges, too, but not beyond the kinematic limit, where there is a kink.
    x_ND = electrons(30, seed=2)
    y_NE = transforms(x_ND, given(30)).requires_grad_()
    if NUMBERS[kind] == 4:
        # On the circle or off it, the radius means nothing.
        y_NE = (y_NE.detach() * torch.tensor([1.0, 1.0, 1.5, 1.5]).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: transforms.inverse(y, given(30)), (y_NE,), fast_mode=True, atol=1e-4)


def test_the_centre_of_the_circle_and_momenta_along_the_beam_have_finite_derivatives() -> None:
    transforms = fitted(KINDS["dis"], electrons())
    y_NE = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 20.0, 1.0, 0.0]]).double().requires_grad_()
    x_ND = transforms.inverse(y_NE)
    assert x_ND[1, :2].norm().item() == pytest.approx(1e-6)  # pz so negative that no pt is left
    assert x_ND[1, 2] < 0
    pt = torch.hypot(x_ND[:, 0], x_ND[:, 1])  # as a critic's feature
    (slope_NE,) = torch.autograd.grad(pt.log().sum() + x_ND.sum(), y_NE)
    assert slope_NE.isfinite().all()


def test_momenta_at_edges_come_back() -> None:
    rows = torch.tensor([[1e-9, 0, 30.0], [0, 0, -3.0], [0, 0, 0], [-1.0, 0, 0], [-1.0, -0.0, 5.0]]).double()
    x_ND = torch.cat([electrons(), rows])
    for kind in ({"kind": "spherical"}, {"kind": "cylindrical"}, {"kind": "plain", "columns": MOMENTUM}):
        transforms = fitted(kind, x_ND)
        assert torch.allclose(transforms.inverse(transforms(x_ND)), x_ND, rtol=1e-12, atol=1e-12), kind


def test_an_angle_closes_where_it_begins() -> None:
    degrees = torch.tensor([0.0, 1.0, 90.0, 359.0, 360.0, *np.linspace(0, 360, 500)]).double()[:, None]
    plain = {"kind": "plain", "columns": ["a"], "periodic": ["a"], "ranges": {"a": [0, 360]}}
    transforms = fitted(plain, degrees, ["a"])
    turned = (transforms.inverse(transforms(degrees)) - degrees).abs()
    assert torch.minimum(turned, (turned - 360).abs()).max() < 1e-9
    assert torch.allclose(transforms(degrees[:1]), transforms(degrees[4:5]))


# --------------------------------------------------------------------------------------------------- what is drawn


def test_what_is_uniform_is_drawn_and_not_generated() -> None:
    x_ND = electrons()
    transforms = fitted({"kind": "dis"}, x_ND)
    y_NE = transforms(x_ND)
    assert transforms.draws
    assert (transforms.size, y_NE.shape[1]) == (2, 2)
    first, again, other = (transforms.inverse(y_NE, Given(noise=stream(seed, "test", 0))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    phi = torch.atan2(first[:, 1], first[:, 0])
    assert abs(float(torch.exp(1j * phi).mean().abs())) < 4 / len(phi) ** 0.5
    assert torch.allclose(first[:, :2].norm(dim=1), x_ND[:, :2].norm(dim=1))
    # Without random numbers an event is turned to where the azimuth is 0, what the critic's features are made from.
    still = transforms.inverse(y_NE)
    assert (still[:, 1] == 0).all()
    assert torch.allclose(still[:, 0], x_ND[:, :2].norm(dim=1))


def test_the_same_angles_in_single_precision() -> None:
    transforms = fitted({"kind": "dis"}, electrons())
    y_NE = transforms(electrons())
    drawn = [
        transforms.to(dtype).inverse(y_NE.to(dtype), Given(noise=stream(1, "test", 0)))
        for dtype in (torch.float64, torch.float32)
    ]
    assert torch.allclose(*(torch.atan2(x[:, 1], x[:, 0]).double() for x in drawn), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x * torch.tensor([1.0, 1.5, 1.0]).double(), "is not uniform"),
        (lambda x: x + torch.tensor([0.5, 0.0, 0.0]).double(), "is not uniform"),
    ],
    ids=["squeezed", "shifted"],
)
def test_an_azimuth_that_is_not_uniform_is_not_drawn(change: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"'phi'.*{said}") as error:
        fitted({"kind": "dis", "q2_min": 0.0}, change(electrons()))
    assert "periodic" in str(error.value)
    fitted({"kind": "dis", "q2_min": 0.0, "periodic": ["phi"]}, change(electrons()))


def test_an_azimuth_that_depends_on_another_coordinate_is_not_drawn() -> None:
    """Uniform as a whole, but high pz to the right, low pz to the left."""
    x_ND = electrons()
    rank = x_ND[:, 2].argsort().argsort() / len(x_ND)
    phi = 2 * pi * rank.double()
    pt = x_ND[:, :2].norm(dim=1)
    bent = torch.stack([pt * phi.cos(), pt * phi.sin(), x_ND[:, 2]], dim=1)
    with pytest.raises(InputError, match=r"is not independent of 'p[tz]'"):
        fitted({"kind": "cylindrical", "uniform": ["phi"]}, bent)


def test_signed_weights_count_where_uniformity_is_judged() -> None:
    """Rows of weight zero or less are not there."""
    x_ND = electrons()
    right = x_ND[:, 0] > 0
    transforms = Transforms(MOMENTUM, {}, coordinates=[made({"kind": "dis"})]).double()
    with pytest.raises(InputError, match="is not uniform"):
        transforms.fit(x_ND, torch.where(right, 1.0, -0.2))
    transforms.fit(torch.cat([x_ND, x_ND[right]]), torch.cat([torch.ones(len(x_ND)), -torch.ones(int(right.sum()))]))


# ------------------------------------------------------------------------------------------ beside other columns


def test_constants_beside_and_inside_coordinates_come_back() -> None:
    x_ND = torch.cat([torch.full((4000, 1), 7.0).double(), electrons(), torch.full((4000, 1), 3.0).double()], dim=1)
    x_ND[:, 3] = 20.0
    transforms = Transforms(["a", *MOMENTUM, "b"], {}, coordinates=[made({"kind": "cylindrical"})]).double()
    transforms.fit(x_ND)
    y_NE = transforms(x_ND)
    assert torch.equal(y_NE == 0, torch.tensor([False, True, False, False, True, True]).expand(4000, 6))
    assert transforms.constant_columns == ("a", "pz", "b")
    back_ND = transforms.inverse(y_NE + 100 * torch.tensor([0, 1, 0, 0, 1, 1]))
    assert torch.allclose(back_ND, x_ND)
    assert torch.equal(back_ND[:, [0, 3, 4]], x_ND[:, [0, 3, 4]])


def test_state_is_all_there_is(tmp_path: Any) -> None:
    x_ND = electrons()
    for kind, settings in KINDS.items():
        one, other = fitted(settings, x_ND), Transforms(MOMENTUM, {}, coordinates=[made(settings)]).double()
        torch.save(one.state_dict(), tmp_path / "state.pt")
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        y_NE = one(x_ND, given(len(x_ND)))
        assert torch.equal(one.inverse(y_NE, given(len(x_ND))), other.inverse(y_NE, given(len(x_ND)))), kind


def test_columns_with_an_offset_are_mapped_as_they_are() -> None:
    x_ND = electrons()
    transforms = Transforms(MOMENTUM, {}, offsets={"pz": 40.0}, coordinates=[made(KINDS["dis"])]).double()
    stored_ND = x_ND - torch.tensor([0, 0, 40.0]).double()
    transforms.fit(stored_ND)
    assert torch.allclose(transforms(stored_ND), fitted(KINDS["dis"], x_ND)(x_ND))
    assert torch.allclose(transforms.inverse(transforms(stored_ND)), stored_ND, atol=1e-10)


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "dis", "q2_min": 3.0}, r"'q2': log_distance: [\d,]+ training rows \(the first is row \d+ of"),
        ({"kind": "dis", "electron_energy": 49.0, "q2_min": 0.0}, "'(q2|pz)': log_distance: "),
        ({"kind": "cylindrical", "along": "eta"}, r"'eta': is not defined in 1 training rows \(the first is row 17"),
        ({"kind": "plain", "columns": ["px"], "periodic": ["px"]}, r"'px': is outside -3.14\d* to 3.14\d* in"),
        (
            {"kind": "expressions", "forward": {"a": "px**2"}, "inverse": {"px": "sqrt(a)"}},
            r"the way back does not lead to 'px' in 1,\d+ training rows \(the first is row",
        ),
        (
            {"kind": "expressions", "forward": {"a": "log(px)"}, "inverse": {"px": "exp(a)"}},
            r"'a': is not defined in [12],\d+ training rows",
        ),
        (
            {"kind": "expressions", "forward": {"a": "px**3"}, "inverse": {"px": "abs(a)**(1/3) * a / sqrt(a**2)"}},
            "the way back does not lead to 'px' in 1 training rows",
        ),
        (
            {"kind": "expressions", "forward": {"a": "(px - 1)**2 + px"}, "inverse": {"px": "a"}},
            "does not lead to 'px'",
        ),
    ],
    ids=range(8),
)
def test_what_the_data_do_not_obey_is_refused(settings: dict[str, Any], said: str) -> None:
    x_ND = electrons()
    x_ND[17, :2] = 0
    columns = list(made(settings).mapped)
    with pytest.raises(InputError, match=said) as error:
        fitted(settings, x_ND[:, [MOMENTUM.index(name) for name in columns]], columns)
    assert error.value.cure


def test_a_way_back_without_a_derivative_is_refused() -> None:
    x_ND = torch.linspace(0, 1, 100).double()[:, None]
    settings = {"kind": "expressions", "forward": {"a": "x**2"}, "inverse": {"x": "sqrt(a)"}}
    with pytest.raises(InputError, match=r"no finite derivative by 'a' in 1 training rows \(the first is row 0"):
        fitted(settings, x_ND, ["x"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "dis", "uniform": ["psi"]}, "names 'psi'"),
        ({"kind": "dis", "uniform": ["phi"], "periodic": ["phi"]}, "'phi' stands in two of"),
        ({"kind": "dis", "transforms": {"x": [{"kind": "log"}]}}, "names 'x'"),
        ({"kind": "cylindrical", "columns": ["px", "px", "pz"]}, "stands twice in 'columns'"),
        ({"kind": "plain", "columns": ["a"], "ranges": {"a": [0, 1]}}, "neither uniform nor periodic"),
        ({"kind": "plain", "columns": ["a"], "periodic": ["a"], "ranges": {"a": [1, 0]}}, "lower end first"),
        ({"kind": "expressions", "forward": {"a": "x", "b": "y"}, "inverse": {"x": "a"}}, "give as many of either"),
        ({"kind": "expressions", "forward": {"a": "x +"}, "inverse": {"x": "a"}}, "is not an expression"),
    ],
    ids=range(8),
)
def test_what_contradicts_itself_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        made(settings)


def test_a_feature_is_claimed_once() -> None:
    base = {"dataset": "dis", "objective": {"kind": "wgan_gp"}}
    for claim in (
        {"coordinates": [{"kind": "dis"}], "transforms": {"pz": [{"kind": "standardise"}]}},
        {"coordinates": [{"kind": "dis"}, {"kind": "plain", "columns": ["pz"]}]},
    ):
        with pytest.raises(ValidationError, match="'pz' stands there and in 'transforms' or twice"):
            config.Training.model_validate(base | claim)
