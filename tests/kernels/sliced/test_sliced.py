"""The sliced energy distance: its definition, its error, its gradient, and that it estimates the exact one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import func

from kantor_kernels import backends, energy_distance, sliced_energy_distance
from kantor_kernels.sliced.reference import factor
from kantor_kernels.testing import AWKWARD_SIZES, assert_close, poisoned_memory

BACKENDS = ["torch", "cpu"] if backends.installed("numba") else ["torch"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So short calls on several threads wait for the machine more than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("estimator", ["v", "u"])
def test_value_error_and_gradients_are_those_of_the_definition(
    backend: str, estimator: str, weighted: bool, dtype: torch.dtype
) -> None:
    x, y = draw(2, 61, 5, seed=1), draw(2, 43, 5, seed=2) + 0.3
    # Coincident rows, in one sample and between the samples, must not pull each other.
    y[:, :5] = x[:, :5]
    x[:, 9] = x[:, 8]
    weights = [draw(2, 61, seed=3) + 1.0, draw(2, 43, seed=4).abs()] if weighted else [None, None]
    results = {}
    for name, kind, how in (
        ("exact", torch.float64, "reference"),
        ("plain", dtype, "reference"),
        ("ours", dtype, backend),
    ):
        # In float32 every computation sees the same rounded numbers.
        leaves = [None if t is None else t.to(dtype).to(kind).requires_grad_() for t in (x, y, *weights)]
        points_x, points_y, weight_x, weight_y = leaves
        assert points_x is not None
        assert points_y is not None
        with poisoned_memory():
            value, error = sliced_energy_distance(
                points_x,
                points_y,
                weight_x,
                weight_y,
                n_slices=13,
                orthogonal=True,
                estimator=estimator,
                generator=seeded(),
                return_error=True,
                backend=how,
            )
            value.sum().backward()
        results[name] = [value, error, *(leaf.grad for leaf in leaves if leaf is not None)]
    names = ("value", "error", "by x", "by y", "by weight_x", "by weight_y")
    for name, ours, plain, exact in zip(names, results["ours"], results["plain"], results["exact"], strict=False):
        scale = float(exact.detach().abs().max())
        atol = scale * (1e-12 if dtype == torch.float64 else 2e-6)
        assert_close(name, ours, exact, baseline=plain, atol=atol)


def test_awkward_sizes(backend: str) -> None:
    for n in AWKWARD_SIZES:
        for m in (1, 64):
            x, y = draw(n, 3, seed=n, dtype=torch.float32), draw(m, 3, seed=m + 1, dtype=torch.float32)
            value, error = sliced_energy_distance(
                x, y, n_slices=7, generator=seeded(), return_error=True, backend=backend
            )
            expected = sliced_energy_distance(
                x.double(), y.double(), n_slices=7, generator=seeded(), return_error=True, backend="reference"
            )
            assert_close(f"value {n}x{m}", value, expected[0], rtol=2e-6, atol=1e-7)
            assert_close(f"error {n}x{m}", error, expected[1], rtol=1e-5, atol=1e-7)


def test_every_kind_of_float_is_sorted(backend: str) -> None:
    special = torch.tensor([0.0, -0.0, 1e-42, -1e-42, 1e30, -1e30, 1.0, -1.0, 1.0 + 2.0**-23, 3e-5, -7.25])
    x, y = special[:, None], special.flip(0)[:, None][:7] * 0.5
    value = sliced_energy_distance(x, y, n_slices=1, backend=backend)
    assert value.item() == pytest.approx(energy_distance(x.double(), y.double()).item(), rel=1e-6)


def test_nan_comes_out_as_nan(backend: str) -> None:
    x, y = draw(20, 3, seed=1, dtype=torch.float32), draw(20, 3, seed=2, dtype=torch.float32)
    x[3, 1] = math.nan
    assert sliced_energy_distance(x, y, backend=backend).isnan()


def test_points_far_from_the_origin(backend: str) -> None:
    x, y = draw(300, 4, seed=1, dtype=torch.float32) + 1e3, draw(200, 4, seed=2, dtype=torch.float32) + 1e3
    exact = sliced_energy_distance(x.double(), y.double(), generator=seeded(), backend="reference")
    ours = sliced_energy_distance(x, y, generator=seeded(), backend=backend)
    assert_close("far away", ours, exact, rtol=1e-5)


def test_blocks_do_not_show(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(50, 4, seed=1, dtype=torch.float32).requires_grad_(), draw(70, 4, seed=2, dtype=torch.float32)
    whole = sliced_energy_distance(x, y, n_slices=21, generator=seeded(), backend=backend)
    module = backends.loaded(f"kantor_kernels.sliced.{'tiled' if backend == 'torch' else backend}")
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", {"cpu": 1} if backend == "torch" else 1)
    blocks = sliced_energy_distance(x, y, n_slices=21, generator=seeded(), backend=backend)
    assert_close("value", blocks, whole, rtol=1e-6)
    slope_whole, slope_blocks = (torch.autograd.grad(value, x)[0] for value in (whole, blocks))
    assert_close("gradient", slope_blocks, slope_whole, atol=1e-6 * float(slope_whole.abs().max()))


def test_threads_do_not_show(backend: str) -> None:
    x, y = draw(3000, 4, seed=1, dtype=torch.float32), draw(2000, 4, seed=2, dtype=torch.float32)
    values = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pair = sliced_energy_distance(x, y, generator=seeded(), return_error=True, backend=backend)
        values.append(torch.stack(pair))
    assert_close("threads", values[1], values[0], rtol=1e-6)


def test_on_a_line_it_is_exact(backend: str) -> None:
    x, y = draw(200, 1, seed=1), draw(150, 1, seed=2) + 1
    for estimator in ("u", "v"):
        value, error = sliced_energy_distance(x, y, n_slices=3, estimator=estimator, return_error=True, backend=backend)
        assert_close("line", value, energy_distance(x, y, estimator=estimator), rtol=1e-12)
        assert error.item() < 1e-14


def test_the_factor_is_the_mean_of_a_projection() -> None:
    assert factor(1) == pytest.approx(1.0)
    assert factor(2) == pytest.approx(math.pi / 2)
    assert factor(3) == pytest.approx(2.0)


@pytest.mark.parametrize(("d", "orthogonal", "estimator"), [(2, False, "v"), (8, True, "u"), (40, False, "u")])
def test_the_error_says_how_far_the_exact_value_is(d: int, orthogonal: bool, estimator: str) -> None:
    """The pull (estimate - exact) / error over repetitions has mean 0 and standard deviation 1."""
    x, y = draw(300, d, seed=1), draw(200, d, seed=2)
    y[:, 0] += 1.0
    weight = draw(300, seed=3).abs()
    exact = energy_distance(x, y, weight, estimator=estimator).item()
    generator, pulls = seeded(), []
    for _ in range(60):
        value, error = sliced_energy_distance(
            x.float(),
            y.float(),
            weight.float(),
            n_slices=96,
            orthogonal=orthogonal,
            estimator=estimator,
            generator=generator,
            return_error=True,
        )
        pulls.append((value.item() - exact) / error.item())
    pull = torch.tensor(pulls)
    # Student's t with 11 degrees of freedom where 96 directions are 12 groups: standard deviation 1.1.
    assert abs(pull.mean()) < 4 * 1.1 / math.sqrt(len(pull))
    assert 0.7 < pull.std() < 1.45


def test_orthogonal_directions_scatter_less() -> None:
    x, y = draw(200, 8, seed=1, dtype=torch.float32), draw(200, 8, seed=2, dtype=torch.float32)
    y[:, 0] += 1.0
    spread = {}
    for orthogonal in (True, False):
        generator = seeded()
        values = [
            sliced_energy_distance(x, y, n_slices=16, orthogonal=orthogonal, generator=generator) for _ in range(50)
        ]
        spread[orthogonal] = torch.stack(values).std().item()
    assert spread[True] < 0.7 * spread[False]


def test_the_gradient_is_exact_on_average() -> None:
    x, y = draw(40, 4, seed=1).requires_grad_(), draw(30, 4, seed=2) + 0.5
    (exact,) = torch.autograd.grad(energy_distance(x, y), x)
    generator, slopes = seeded(), []
    for _ in range(40):
        value = sliced_energy_distance(x, y, n_slices=64, generator=generator)
        slopes.append(torch.autograd.grad(value, x)[0])
    slope = torch.stack(slopes)
    pull = (slope.mean(0) - exact) / (slope.std(0) / math.sqrt(len(slope)))
    assert pull.abs().max() < 5
    assert 0.7 < pull.std() < 1.3


def test_equal_samples_have_distance_zero(backend: str) -> None:
    x = draw(100, 6, seed=1, dtype=torch.float32).requires_grad_()
    value, error = sliced_energy_distance(x, x.detach().clone(), return_error=True, backend=backend)
    (slope,) = torch.autograd.grad(value, x)
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert error.item() == pytest.approx(0.0, abs=1e-12)
    assert_close("gradient", slope, torch.zeros_like(slope), atol=1e-9)


def test_the_method_of_energy_distance(backend: str) -> None:
    x, y = draw(2, 3, 50, 4, seed=1), draw(2, 3, 40, 4, seed=2)
    value = energy_distance(x, y, method="sliced", n_slices=16, generator=seeded(), backend=backend)
    assert value.shape == (2, 3)
    assert torch.equal(value, sliced_energy_distance(x, y, n_slices=16, generator=seeded(), backend=backend))
    assert energy_distance(x, y, method="sliced", backend=backend).shape == (2, 3)


def test_half_precision_is_computed_in_float32(backend: str) -> None:
    x, y = draw(50, 6, seed=1, dtype=torch.bfloat16).requires_grad_(), draw(50, 6, seed=2, dtype=torch.bfloat16)
    value = sliced_energy_distance(x, y, generator=seeded(), backend=backend)
    assert value.dtype == torch.float32
    assert value.item() == sliced_energy_distance(x.float(), y.float(), generator=seeded(), backend=backend).item()
    value.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_the_registered_operator_is_sound(backend: str) -> None:
    x, y = draw(1, 11, 3, seed=1).requires_grad_(), draw(1, 7, 3, seed=2)
    weight = torch.full((1, 18), 1 / 9, dtype=torch.float64, requires_grad=True)
    arguments = (x, y, weight, torch.zeros(1, 2, dtype=torch.float64), draw(4, 3, seed=3), True, True, backend)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.kantor.sliced_energy.default, arguments, test_utils=checks)


def test_a_second_order_raises(backend: str) -> None:
    x, y = draw(20, 3, seed=1).requires_grad_(), draw(20, 3, seed=2)
    value = energy_distance(x, y, method="sliced", backend=backend)
    with pytest.raises(NotImplementedError, match="kantor::sliced_energy"):
        torch.autograd.grad(value, x, create_graph=True)


def transformed(transform: Callable[..., Any], backend: str) -> Any:
    generator = torch.Generator()

    def distance(*inputs: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"n_slices": 5, "estimator": "u", "generator": generator.manual_seed(1)}
        return sliced_energy_distance(*inputs, backend=backend, **options)

    return transform(distance, draw(20, 3, seed=1), draw(15, 3, seed=2), 2 + draw(20, seed=3), 2 + draw(15, seed=4))


# PyTorch scripts some decompositions at its first dual tensor and warns of its own deprecated function.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("transform", ["jvp", "grad", "vjp", "jacrev"])
def test_transforms_are_those_of_the_definition(transform: str, backend: str) -> None:
    all_four = (0, 1, 2, 3)
    call = {
        "jvp": lambda f, *inputs: [func.jvp(f, inputs, tuple(torch.cos(z) for z in inputs))[1]],
        "grad": lambda f, *inputs: func.grad(f, argnums=all_four)(*inputs),
        "vjp": lambda f, *inputs: func.vjp(f, *inputs)[1](inputs[0].new_tensor(0.7)),
        "jacrev": lambda f, *inputs: func.jacrev(f, argnums=all_four)(*inputs),
    }[transform]
    for ours, exact in zip(transformed(call, backend), transformed(call, "reference"), strict=True):
        assert_close(transform, ours, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_second_order_raises_in_every_mode(backend: str) -> None:
    def along(f: Callable[..., torch.Tensor], x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return func.jvp(lambda x: f(x, *rest), (x,), (x.cos(),))[1]

    for twice in (
        lambda f, *inputs: func.jacrev(func.grad(f))(*inputs),
        lambda f, x, *rest: along(func.grad(f), x, *rest),
        lambda f, x, *rest: func.grad(lambda x: along(f, x, *rest))(x),
        lambda f, *inputs: along(lambda *z: along(f, *z), *inputs),
    ):
        with pytest.raises(NotImplementedError, match="kantor::sliced_energy"):
            transformed(twice, backend)


def test_bad_input_is_refused() -> None:
    x, y = draw(20, 3, seed=1), draw(20, 3, seed=2)
    with pytest.raises(ValueError, match="exponent 1"):
        energy_distance(x, y, exponent=1.5, method="sliced")
    with pytest.raises(ValueError, match="yy"):
        energy_distance(x, y, yy=torch.zeros(()), method="sliced")
    with pytest.raises(ValueError, match="method must be"):
        energy_distance(x, y, method="sorted")
    with pytest.raises(ValueError, match="belong to method='sliced'"):
        energy_distance(x, y, n_slices=3)
    with pytest.raises(ValueError, match="at least 1"):
        sliced_energy_distance(x, y, n_slices=0)
    with pytest.raises(ValueError, match="two groups"):
        sliced_energy_distance(x, y, n_slices=3, orthogonal=True, return_error=True)
    with pytest.raises(ValueError, match="sliced has no backend 'triton'; it has: auto, cpu, torch, reference"):
        sliced_energy_distance(x, y, backend="triton")
    with pytest.raises(ValueError, match="agree in D"):
        sliced_energy_distance(x, y[:, :2])
    with pytest.raises(ValueError, match="two rows"):
        sliced_energy_distance(x[:1], y, estimator="u")
    with pytest.raises(ValueError, match="sums to zero"):
        sliced_energy_distance(x, y, torch.zeros(20))
