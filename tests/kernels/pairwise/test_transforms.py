"""Forward mode and the transforms of torch.func, against those of the definition."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kantor_kernels import (
    Energy,
    Gaussian,
    Kernel,
    Polynomial,
    energy_distance,
    kernel_potential,
    kernel_slope,
    mmd,
    self_energy,
)
from kantor_kernels.testing import assert_close

# PyTorch scripts some decompositions at its first dual tensor and warns of its own deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

Function = Callable[..., Tensor]


def everything(generator: torch.Generator) -> tuple[Tensor, ...]:
    make = partial(torch.randn, generator=generator, dtype=torch.float64)
    return make(5, 3), make(4, 3) + 0.2, make(5) + 2.0, make(4) + 2.0


STATISTICS: dict[str, Callable[[Kernel, str], tuple[Function, tuple[int, ...]]]] = {
    "mmd, weighted": lambda kernel, backend: (partial(mmd, kernel=kernel, backend=backend), (0, 1, 2, 3)),
    "mmd, U": lambda kernel, backend: (partial(mmd, kernel=kernel, estimator="u", backend=backend), (0, 1)),
    "potential": lambda kernel, backend: (
        lambda x, y, b: kernel_potential(x, y, b, kernel=kernel, backend=backend),
        (0, 1, 3),
    ),
    "self energy": lambda kernel, backend: (partial(self_energy, kernel=kernel, backend=backend), (1, 3)),
}


def forward(f: Function, inputs: tuple[Tensor, ...]) -> Tensor:
    return func.jvp(f, inputs, tuple(torch.cos(3 * value) for value in inputs))[1]


TRANSFORMS: dict[str, Callable[[Function, tuple[Tensor, ...]], Any]] = {
    "jvp": forward,
    "jvp by one": lambda f, inputs: forward(lambda x: f(x, *inputs[1:]), inputs[:1]),
    "grad": lambda f, inputs: func.grad(lambda *z: f(*z).sum(), argnums=tuple(range(len(inputs))))(*inputs),
    "vjp": lambda f, inputs: func.vjp(lambda *z: f(*z).sum(), *inputs)[1](inputs[0].new_tensor(0.7)),
    "jacrev": lambda f, inputs: func.jacrev(f, argnums=tuple(range(len(inputs))))(*inputs),
    "jacfwd": lambda f, inputs: func.jacfwd(f, argnums=tuple(range(len(inputs))))(*inputs),
    "hessian": lambda f, inputs: func.hessian(f, argnums=tuple(range(len(inputs))))(*inputs),
    "reverse of reverse": lambda f, inputs: func.jacrev(func.jacrev(f, argnums=0), argnums=1)(*inputs),
    "reverse of forward": lambda f, inputs: func.jacrev(lambda *z: forward(f, z), argnums=(0, 1))(*inputs),
    "forward of forward by one": lambda f, inputs: func.jacfwd(func.jacfwd(f))(*inputs),
    "vmap": lambda f, inputs: func.vmap(lambda x: f(x, *inputs[1:]))(torch.stack([inputs[0], 2 * inputs[0]])),
}


def tensors(nested: Any) -> list[Tensor]:
    return _pytree.tree_leaves(nested)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(
    "kernel",
    [
        Energy(),
        pytest.param(Energy(1.5), marks=pytest.mark.slow),
        Gaussian([0.7, 2.0]),
        pytest.param(Polynomial(3, 0.5), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_transforms_are_those_of_the_definition(
    kernel: Kernel, statistic: str, transform: str, backend: str, generator
) -> None:
    results = []
    for name in (backend, "reference"):
        function, which = STATISTICS[statistic](kernel, name)
        drawn = everything(generator.manual_seed(20))
        results.append(tensors(TRANSFORMS[transform](function, tuple(drawn[index] for index in which))))
    for ours, exact in zip(*results, strict=True):
        assert_close(transform, ours, exact, rtol=1e-10, atol=1e-11 * max(1.0, float(exact.abs().max())))
    assert any(float(exact.abs().max()) > 1e-3 for exact in results[1])


def test_bandwidths_have_forward_derivatives(backend: str, generator) -> None:
    x, y, *_ = everything(generator)
    slopes = [
        forward(lambda s, how=how: mmd(x, y, kernel=Gaussian(s), backend=how), (torch.tensor([0.7, 2.0]).double(),))
        for how in (backend, "reference")
    ]
    assert_close("bandwidths", *slopes, rtol=1e-11)


def test_dual_tensors_carry_tangents(backend: str, generator) -> None:
    """Without torch.func; also where the tangent is differentiated again."""
    x, y, a, b = everything(generator)
    for weights in ((), (a, b)):
        found = []
        for how in (backend, "reference"):
            point = x.clone().requires_grad_()
            with forward_ad.dual_level():
                value = mmd(forward_ad.make_dual(point, y[[0, 1, 2, 3, 0]]), y, *weights, kernel=Energy(), backend=how)
                tangent = forward_ad.unpack_dual(value).tangent
            assert tangent is not None
            found.append((tangent.detach(), torch.autograd.grad(tangent, point)[0]))
        for name, ours, exact in zip(("tangent", "its gradient"), *found, strict=True):
            assert_close(name, ours, exact, rtol=1e-11, atol=1e-13)


def test_a_third_order_is_refused(backend: str, generator) -> None:
    x, y, *_ = everything(generator)
    function = partial(kernel_potential, y=y, backend=backend)
    with pytest.raises(NotImplementedError, match="third order"):
        func.jacfwd(func.hessian(lambda x: function(x).sum()))(x)
    with pytest.raises(NotImplementedError, match="third order"):
        func.jacrev(func.hessian(lambda x: function(x).sum()))(x)


@pytest.mark.parametrize("transform", ["jvp", "grad"])
def test_a_compiled_transform_is_no_other(transform: str, backend: str, generator) -> None:
    inputs = everything(generator)[:2]

    def transformed(*inputs: Tensor) -> Any:
        return TRANSFORMS[transform](partial(energy_distance, backend=backend), inputs)

    compiled = torch.compile(transformed, backend="aot_eager")
    for ours, exact in zip(tensors(compiled(*inputs)), tensors(transformed(*inputs)), strict=True):
        assert_close(transform, ours, exact, rtol=1e-12)


@pytest.mark.parametrize("how", ["torch", "reference"])
def test_slopes_have_the_gradients_of_the_definition(how: str, generator) -> None:
    inputs = everything(generator)[:2]
    for transform in ("grad", "vjp"):
        ours, exact = (
            tensors(TRANSFORMS[transform](lambda x, y, name=name: kernel_slope(x, y, backend=name).square(), inputs))
            for name in (how, "reference")
        )
        for mine, theirs in zip(ours, exact, strict=True):
            assert_close(transform, mine, theirs, rtol=1e-10, atol=1e-12)


def test_slopes_have_no_forward_derivative_and_say_so(generator) -> None:
    inputs = everything(generator)[:2]
    with pytest.raises(NotImplementedError, match="forward AD"):
        forward(partial(kernel_slope, backend="torch"), inputs)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_of_a_transform_outlives_it(transform: str, backend: str, generator) -> None:
    """With one more row for each transform, so that what is kept for a size is made inside of it."""
    rows = 20 + 2 * list(TRANSFORMS).index(transform)
    x, y = (torch.randn(rows + more, 3, generator=generator, dtype=torch.float64) for more in (0, 1))
    statistic = partial(mmd, kernel=Energy(), estimator="u", backend=backend)
    TRANSFORMS[transform](statistic, (x, y))
    point = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(statistic(point, y), point)
    assert_close("gradient", func.grad(statistic)(x, y), plain, rtol=1e-12, atol=1e-14)


class _Seen(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_who_looks_into_a_call_sees_operators() -> None:
    """Otherwise the dispatch is left out, and the result is the same to the bit."""
    x, y = torch.randn(20, 3, requires_grad=True), torch.randn(30, 3)

    def found() -> tuple[Tensor, ...]:
        value = energy_distance(x, y)
        return value.detach(), *torch.autograd.grad(value, x)

    with _Seen() as seen:
        recorded = found()
    assert "kantor::pairwise_mmd" in seen.names
    for mine, theirs in zip(found(), recorded, strict=True):
        assert torch.equal(mine, theirs)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        assert energy_distance(fake.from_tensor(x), fake.from_tensor(y)).shape == ()
