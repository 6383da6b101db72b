"""The closed form is the loss, the penalty and the gradients that autograd finds by double backward."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kantor_kernels import (
    CriticStep,
    Perceptron,
    backends,
    energy_distance,
    gradient_penalty,
    kernel_slope,
    mlp_critic_step,
    mlp_forward,
)
from kantor_kernels.backends import why_not_compile
from kantor_kernels.critic_step import functional, tiled
from kantor_kernels.critic_step.problem import read
from kantor_kernels.testing import assert_close, poisoned_memory

B, D, C = 16, 5, 3
LOSSES = {"wasserstein": 1, "energy": 7, "surrogate": 7}
ACTIVATIONS = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}


def perceptron(activation: str, outputs: int, *, depth: int = 3, bias: bool = True) -> nn.Sequential:
    widths = [D + C, *[20 + 3 * layer for layer in range(depth)], outputs]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out, bias=bias or fan_out != outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1]).double()


def rows(seed: int = 2, b: int = B) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(b, n, generator=generator, dtype=torch.float64) for n in (D, D, C))  # pyright: ignore


def flat(step: CriticStep) -> dict[str, Tensor]:
    found = {f"gradient {i}": grad for i, grad in enumerate(step.gradients)}
    return {**step._asdict(), **found} | {"gradients": step.loss}


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_equals_double_backward(activation: str, loss: str, backend: str) -> None:
    critic = perceptron(activation, LOSSES[loss], bias=loss == "surrogate")
    real, fake, conditions = rows()
    points = B // 2 if loss == "energy" else B
    options: dict[str, Any] = {
        "conditions": conditions,
        "loss": loss,
        "weight": 7.0,
        "target": 0.3,
        "eps": torch.linspace(0.1, 0.9, points, dtype=torch.float64),
        "coefficients": torch.linspace(-0.3, 1, points, dtype=torch.float64),
        "penalty_coefficients": torch.linspace(0, 1, points, dtype=torch.float64),
    }
    if loss == "wasserstein":
        options["fake_coefficients"] = torch.linspace(0.5, 0.1, points, dtype=torch.float64)
    for one_sided in (False, True):
        ours, exact = (
            flat(mlp_critic_step(critic, real, fake, one_sided=one_sided, backend=each, **options))
            for each in (backend, "reference")
        )
        assert ours.keys() == exact.keys()
        for name, value in ours.items():
            assert_close(name, value, exact[name], rtol=1e-12, atol=1e-12 * max(1.0, float(exact[name].abs().max())))


@pytest.mark.slow
@pytest.mark.skipif(why_not_compile(torch.device("cpu")) is not None, reason="needs a C++ compiler")
# PyTorch's compiler uses what PyTorch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_compiled_step_equals_double_backward() -> None:
    activation, loss = "silu", "energy"
    critic = perceptron(activation, LOSSES[loss], depth=1)
    real, fake, conditions = rows()
    eps = torch.linspace(0, 1, B // 2, dtype=torch.float64)
    options: dict[str, Any] = {"conditions": conditions, "loss": loss, "eps": eps}
    ours, exact = (flat(mlp_critic_step(critic, real, fake, backend=b, **options)) for b in ("compiled", "reference"))
    for name, value in ours.items():
        assert_close(name, value, exact[name], rtol=1e-12, atol=1e-12 * max(1.0, float(exact[name].abs().max())))


def test_what_is_too_wide_for_triton_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = False
    monkeypatch.setattr(backends, "installed", lambda package: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)

    def chosen(backend: str, width: int, dtype: torch.dtype = torch.float32) -> str:
        problem = functional.Layers(torch.device("cuda"), dtype, (4, width, 1), True)
        return backends.choose(functional.OPERATION, backend, problem)[0].name

    assert chosen("auto", 256) == "triton"
    assert chosen("auto", 512) == "compiled"
    assert chosen("auto", 512, torch.float64) == "torch"
    assert chosen("compiled", 16) == "compiled"
    with pytest.raises(ValueError, match="at most 256 units"):
        chosen("triton", 512)
    recording = True
    assert chosen("auto", 512) == "torch"


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_blocks_add_up(activation: str, loss: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last block is shorter, and in memory that holds NaN at first."""
    critic = perceptron(activation, LOSSES[loss])
    real, fake, conditions = rows(b=22)
    eps = torch.linspace(0, 1, 11 if loss == "energy" else 22, dtype=torch.float64)
    options: dict[str, Any] = {"conditions": conditions, "loss": loss, "eps": eps}
    exact = flat(mlp_critic_step(critic, real, fake, backend="reference", **options))
    monkeypatch.setattr(tiled, "BLOCK", 8)
    tiled._local.__dict__.clear()
    with poisoned_memory():
        for _ in range(2):
            for name, value in flat(mlp_critic_step(critic, real, fake, backend=backend, **options)).items():
                assert_close(name, value, exact[name], rtol=1e-12, atol=1e-13)


class AllPairs:
    """The energy distance of all embeddings, with the slope of its witness."""

    def compare(self, real_BO: Tensor, fake_BO: Tensor, between_BO: Tensor) -> tuple[Tensor, Tensor]:
        near, far = (kernel_slope(between_BO, rows, backend="torch") for rows in (real_BO, fake_BO))
        return energy_distance(real_BO, fake_BO, backend="torch"), near - far


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("b", [3, 22, 101])
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_a_comparison_of_the_caller_s(activation: str, b: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all embeddings at once, whatever the panels and blocks; a second step overwrites nothing of the first."""
    monkeypatch.setattr(tiled, "BLOCK", 40)
    tiled._local.__dict__.clear()
    critic, (real, fake, conditions) = perceptron(activation, 7, bias=False), rows(b=b)
    options: dict[str, Any] = {
        "conditions": conditions,
        "loss": AllPairs(),
        "weight": 7.0,
        "target": 0.3,
        "eps": torch.linspace(0.1, 0.9, b, dtype=torch.float64),
        "penalty_coefficients": torch.linspace(0, 1, b, dtype=torch.float64),
    }
    exact = flat(mlp_critic_step(critic, real, fake, backend="reference", **options))
    with poisoned_memory():
        ours = flat(mlp_critic_step(critic, real, fake, backend=backend, **options))
        mlp_critic_step(critic, fake, real, backend=backend, **options)
    for name, value in ours.items():
        assert_close(name, value, exact[name], rtol=1e-11, atol=1e-12 * max(1.0, float(exact[name].abs().max())))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("b", [1, 22, 101])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_penalty_alone(activation: str, b: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In panels and blocks that do not divide the batch, and in memory that holds NaN at first."""
    monkeypatch.setattr(tiled, "BLOCK", 40)
    tiled._local.__dict__.clear()
    critic = perceptron(activation, 1)
    found = Perceptron.of(critic)
    assert found is not None
    x, y, conditions = rows(b=b)
    real, fake = torch.cat([x, conditions], 1), torch.cat([y, conditions], 1)
    eps, share = torch.linspace(0, 1, b, dtype=torch.float64)[:, None], torch.linspace(0, 1, b, dtype=torch.float64)
    for one_sided in (False, True):
        with poisoned_memory():
            ours = functional.penalty_alone(found, real, fake, eps, share, 0.3, one_sided, backend)
        assert ours.distance == 0
        exact, norms = gradient_penalty(
            critic, real, fake, eps=eps, weights=share, normalise=False, target=0.3, one_sided=one_sided,
            return_norms=True, backend="reference",
        )  # fmt: skip
        assert_close("penalty", ours.penalty, exact, rtol=1e-12)
        assert_close("norms", ours.norms, norms, rtol=1e-12)
        gradients = torch.autograd.grad(exact, list(critic.parameters()), allow_unused=True, materialize_grads=True)
        for mine, theirs in zip(ours.gradients, gradients, strict=True):
            assert_close("gradient", mine, theirs, rtol=1e-11, atol=1e-12 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_single_precision_is_as_good_as_autograd(activation: str, loss: str, backend: str) -> None:
    critic = perceptron(activation, LOSSES[loss])
    real, fake, conditions = rows(b=600)
    eps = torch.linspace(0, 1, 300 if loss == "energy" else 600, dtype=torch.float64)

    def step(dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
        x, y, c, e = (values.to(dtype) for values in (real, fake, conditions, eps))
        return flat(
            mlp_critic_step(copy.deepcopy(critic).to(dtype), x, y, conditions=c, loss=loss, eps=e, backend=backend)
        )

    exact, plain, ours = (
        step(torch.float64, "reference"), step(torch.float32, "reference"), step(torch.float32, backend)
    )  # fmt: skip
    for name, value in ours.items():
        scale = float(exact[name].abs().max())
        assert_close(name, value, exact[name], baseline=plain[name], factor=3, atol=2e-6 * scale + 1e-7)


@pytest.mark.parametrize("backend", ["reference", "cpu", "torch"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_vanishing_gradient_and_coincident_embeddings_are_no_nan(loss: str, backend: str) -> None:
    critic = perceptron("leaky_relu", LOSSES[loss])
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    real, fake, conditions = rows()
    step = mlp_critic_step(critic, real, fake, conditions=conditions, loss=loss, backend=backend)
    assert step.penalty.item() == pytest.approx(1.0)
    assert all(gradient.isfinite().all() for gradient in step.gradients)
    assert (step.norms == 0).all()


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("depth", [0, 1])
def test_shallow_critics(depth: int, backend: str) -> None:
    critic = perceptron("leaky_relu", 1, depth=depth)
    real, fake, conditions = rows()
    options: dict[str, Any] = {
        "conditions": conditions,
        "eps": torch.rand(B, generator=torch.Generator().manual_seed(1)).double(),
    }
    ours, exact = (
        flat(mlp_critic_step(critic, real, fake, backend=each, **options)) for each in (backend, "reference")
    )
    for name, value in ours.items():
        assert_close(name, value, exact[name], rtol=1e-12, atol=1e-13)


def test_results_are_the_caller_s() -> None:
    """A later step overwrites buffers, never what an earlier one returned."""
    critic = perceptron("leaky_relu", 1)
    real, fake, conditions = rows()
    first = mlp_critic_step(critic, real, fake, conditions=conditions, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in flat(first).items()}
    mlp_critic_step(critic, fake, real, conditions=conditions)
    for name, value in flat(first).items():
        assert torch.equal(value, before[name]), name
    assert not any(value.requires_grad for value in before.values())


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_buffers_of_inference_mode_serve_outside_of_it(activation: str, backend: str) -> None:
    """Who samples first trains afterwards."""
    tiled._local.__dict__.clear()
    critic, (real, fake, conditions) = perceptron(activation, 1), rows()
    eps = torch.full((B,), 0.3, dtype=torch.float64)

    def both() -> tuple[Tensor, Tensor]:
        values = mlp_forward(critic, torch.cat([real, conditions], 1))
        return values, mlp_critic_step(critic, real, fake, conditions=conditions, eps=eps, backend=backend).loss

    with torch.inference_mode():
        first = both()
    for ours, theirs in zip(both(), first, strict=True):
        assert not ours.is_inference()
        assert torch.equal(ours, theirs)


def test_eps_is_drawn_by_the_generator() -> None:
    critic, (real, fake, conditions) = perceptron("silu", 1), rows()
    eps = torch.rand(B, generator=torch.Generator().manual_seed(4)).double()
    drawn = mlp_critic_step(critic, real, fake, conditions=conditions, generator=torch.Generator().manual_seed(4))
    given = mlp_critic_step(critic, real, fake, conditions=conditions, eps=eps[:, None])
    assert drawn.penalty.item() == given.penalty.item()


def test_threads_have_buffers_of_their_own() -> None:
    critic = perceptron("leaky_relu", 1)
    batches = [rows(seed) for seed in range(8)]

    def step(batch: tuple[Tensor, Tensor, Tensor]) -> float:
        real, fake, conditions = batch
        eps = torch.full((B,), 0.3, dtype=torch.float64)
        return mlp_critic_step(critic, real, fake, conditions=conditions, eps=eps).loss.item()

    alone = [step(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(step, batches * 8)) == alone * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_values_alone(activation: str, dtype: torch.dtype) -> None:
    """Of any number of rows, in any layout, and each row as it would be alone."""
    network = perceptron(activation, 7)
    exact = copy.deepcopy(network)
    network.to(dtype)
    for n in (0, 1, 3, 63, 65, 1023):
        x = torch.randn(D + C, n, generator=torch.Generator().manual_seed(n)).mT.to(dtype)
        ours = mlp_forward(network, x)
        assert not ours.requires_grad
        assert_close(
            "values", ours, exact(x.double()), baseline=network(x), atol=1e-6 if dtype == torch.float32 else 1e-14
        )
        if activation == "leaky_relu":
            for i in range(0, n, 7):
                assert torch.equal(mlp_forward(network, x[i : i + 1])[0], ours[i])
    with pytest.raises(ValueError, match="x must be"):
        mlp_forward(network, torch.randn(3, 2, dtype=dtype))
    if activation == "silu":
        with pytest.raises(ValueError, match="straight but for kinks"):
            mlp_forward(network, torch.randn(3, D + C, dtype=dtype), backend="cpu")
    with pytest.raises(ValueError, match=r"no nn\.Sequential"):
        mlp_forward(nn.Linear(2, 1), torch.randn(3, 2))


def test_what_a_perceptron_is() -> None:
    found = Perceptron.of(perceptron("leaky_relu", 3))
    assert found is not None
    assert (found.activation, found.slope, found.inputs, found.outputs) == ("leaky_relu", 0.2, D + C, 3)
    assert Perceptron.of(nn.Sequential(nn.Linear(2, 1))) is not None
    linear = [nn.Linear(4, 4) for _ in range(3)]
    for layers in (
        [linear[0], nn.LeakyReLU(), linear[1], nn.ReLU(), linear[2]],
        [linear[0], nn.LayerNorm(4), linear[1]],
        [linear[0], nn.Softplus(beta=2), linear[1]],
        [linear[0], nn.LeakyReLU(-0.1), linear[1]],
        [linear[0], nn.ReLU()],
        [linear[0], nn.ReLU(), nn.Linear(4, 1).double()],
        [nn.Linear(4, 1).half()],
        [nn.utils.parametrizations.spectral_norm(nn.Linear(4, 1))],
    ):
        assert Perceptron.of(nn.Sequential(*layers)) is None, layers
    assert Perceptron.of(linear[0]) is None


@pytest.fixture
def hooked_globally() -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    yield
    handle.remove()


@pytest.mark.usefixtures("hooked_globally")
def test_hooks_of_all_modules_are_called_or_refused() -> None:
    assert "hooks of all modules" in str(read(perceptron("tanh", 1)))


def test_what_would_not_be_called_is_refused() -> None:
    real, fake, _ = rows()

    def hook(*_: object) -> None: ...

    for tamper, reason in (
        (lambda layers: layers[0].register_forward_hook(hook), "a hook is registered on its Linear"),
        (lambda layers: layers[1].register_forward_pre_hook(hook), "a hook is registered on its Tanh"),
        (lambda layers: layers[2].register_full_backward_hook(hook), "a hook is registered on its Linear"),
        (lambda layers: layers.register_full_backward_pre_hook(hook), "a hook is registered on its Sequential"),
        (lambda layers: setattr(layers[0], "forward", layers[0].forward), "its Linear has a forward of its own"),
        (lambda layers: setattr(layers, "forward", layers.forward), "its Sequential has a forward of its own"),
        (lambda layers: layers.__setitem__(2, layers[0]), "a layer or a parameter stands in it twice"),
        (lambda layers: setattr(layers[2], "weight", layers[0].weight), "a layer or a parameter stands in it twice"),
        (lambda layers: setattr(layers[2], "bias", layers[0].bias), "a layer or a parameter stands in it twice"),
    ):
        layers = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 1)).double()
        assert read(layers) == Perceptron.of(layers)
        tamper(layers)
        with pytest.raises(ValueError, match=f"critic must be a perceptron, got a Sequential: {reason}.* any critic"):
            mlp_critic_step(layers, real, fake)
        with pytest.raises(ValueError, match=f"network must be a perceptron, got a Sequential: {reason}"):
            mlp_forward(layers, real)


def test_bad_input_is_refused() -> None:
    critic, (real, fake, conditions) = perceptron("tanh", 1), rows()
    options: dict[str, Any] = {"conditions": conditions}
    w, square = next(critic.parameters()).detach(), torch.ones(4, 4)
    for message, call in {
        "no nn.Sequential": lambda: mlp_critic_step(nn.Linear(5, 1), real, fake),
        "real and fake must be": lambda: mlp_critic_step(critic, real, fake[:3], **options),
        "not empty": lambda: mlp_critic_step(critic, real[:0], fake[:0]),
        "takes 8 inputs": lambda: mlp_critic_step(critic, real, fake),
        "conditions must be": lambda: mlp_critic_step(critic, real, fake, conditions=conditions[:2]),
        "loss must be": lambda: mlp_critic_step(critic, real, fake, loss="hinge", **options),
        "come in pairs": lambda: mlp_critic_step(critic, real[:3], fake[:3], loss="energy"),
        "has its own coefficients": lambda: mlp_critic_step(
            critic, real, fake, loss=AllPairs(), coefficients=torch.ones(16), **options
        ),
        "it knows its own losses alone": lambda: mlp_critic_step(
            critic, real, fake, loss=AllPairs(), backend="compiled", **options
        ),
        "pass `coefficients` alone": lambda: mlp_critic_step(
            critic, real, fake, loss="energy", fake_coefficients=torch.ones(8), **options
        ),
        "one output": lambda: mlp_critic_step(perceptron("tanh", 2), real, fake, **options),
        "eps must be": lambda: mlp_critic_step(critic, real, fake, eps=torch.rand(3), **options),
        "penalty_coefficients must be": lambda: mlp_critic_step(
            critic, real, fake, penalty_coefficients=torch.ones(3), **options
        ),
        "real is torch.float32": lambda: mlp_critic_step(critic, real.float(), fake, **options),
        "critic_step has no backend": lambda: mlp_critic_step(critic, real, fake, backend="fortran", **options),
        "unknown activation": lambda: Perceptron((w,), (None,), "gelu"),
        "slope must be": lambda: Perceptron((w,), (None,), "tanh", 0.1),
        "is followed by": lambda: Perceptron((w, w), (None, None), "tanh"),
        "has a bias": lambda: Perceptron((w,), (w[0],), "tanh"),
        "1 weights and 2 biases": lambda: Perceptron((w,), (None, None), "tanh"),
        "stands in it twice": lambda: Perceptron((square, square), (None, None), "tanh"),
        "not all of one dtype": lambda: Perceptron((w,), (w[:, 0].float(),), "tanh"),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
