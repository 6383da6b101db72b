"""Every argument of every operation is checked at the entrance: an error names it, what was given, and the cure."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kantor_kernels
from kantor_kernels import Energy, Gaussian, Polynomial, RationalQuadratic, backends

X, Y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
CRITIC = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
PAIR: dict[str, Any] = {"x": X, "y": Y}
STEP: dict[str, Any] = {"critic": CRITIC, "real": X, "fake": Y}
# A call of every public operation that works.
CALLS: dict[str, dict[str, Any]] = {
    "energy_distance": PAIR,
    "explain": PAIR,
    "explain_penalty": {"critic": CRITIC, "real": X},
    "gradient_penalty": STEP,
    "kernel_potential": PAIR,
    "kernel_slope": PAIR,
    "kernel_witness": PAIR | {"at": X},
    "mlp_critic_step": STEP,
    "mlp_forward": {"network": CRITIC, "x": X},
    "mmd": PAIR | {"kernel": Energy()},
    "self_energy": {"y": Y},
    "sliced_energy_distance": PAIR,
    "two_sample_test": PAIR,
}
ARRAY, LIST, WORD = np.ones((6, 3), np.float32), [1.0] * 6, "gaussian"
# What an argument of this name cannot be, with the kind of error; None: it must be there.
REFUSED: dict[str, tuple[tuple[Any, type[Exception]], ...]] = {
    **dict.fromkeys(("x", "y", "real", "fake"), ((ARRAY, TypeError), (None, TypeError), (LIST, TypeError))),
    **dict.fromkeys(("critic", "network"), ((3, TypeError), (None, TypeError))),
    **dict.fromkeys(("weight_x", "weight_y", "weights", "conditions"), ((LIST, TypeError), (ARRAY, TypeError))),
    **dict.fromkeys(("coefficients", "fake_coefficients", "penalty_coefficients"), ((LIST, TypeError),)),
    "kernel": ((WORD, TypeError), (Gaussian, TypeError)),
    "yy": ((0.3, TypeError), (torch.zeros(2), ValueError), (torch.zeros((), dtype=torch.int64), ValueError)),
    "eps": ((0.5, TypeError), (torch.full((6,), 3.0), ValueError), (torch.full((6,), math.nan), ValueError)),
    "target": (("1", TypeError), (math.nan, ValueError), (math.inf, ValueError), (None, TypeError)),
    "weight": (("10", TypeError), (math.nan, ValueError), (torch.ones((), requires_grad=True), TypeError)),
    "exponent": (("1", TypeError), (torch.ones((), requires_grad=True), TypeError), (2.0, ValueError)),
    "permutations": ((9.5, TypeError), ("9", TypeError), (True, TypeError), (0, ValueError)),
    "at": ((LIST, TypeError), (ARRAY, TypeError), (X[:5], ValueError)),
    "rows": ((9.5, TypeError), (0, ValueError), (7, ValueError)),
    "n_slices": ((9.5, TypeError), (0, ValueError)),
    "generator": ((3, TypeError),),
    "backend": ((3, TypeError), (None, TypeError), ("fortran", ValueError)),
    "loss": ((3, TypeError), ("hinge", ValueError)),
    "method": ((None, TypeError), ("sorted", ValueError)),
    "estimator": ((None, TypeError), ("w", ValueError)),
    "precision": ((torch.float32, TypeError), ("tf32", ValueError)),
    **dict.fromkeys(
        ("normalise", "one_sided", "skip_diagonal", "return_norms", "return_error", "orthogonal"),
        (("yes", TypeError), (1, TypeError)),
    ),
}
CASES = [
    pytest.param(operation, name, value, error, id=f"{operation}-{name}-{index}")
    for operation in CALLS
    for name in inspect.signature(getattr(kantor_kernels, operation)).parameters
    for index, (value, error) in enumerate(REFUSED[name])
]


def test_every_operation_is_here() -> None:
    functions = {name for name in kantor_kernels.__all__ if inspect.isfunction(getattr(kantor_kernels, name))}
    assert functions == CALLS.keys()
    for name, call in CALLS.items():
        getattr(kantor_kernels, name)(**call)


@pytest.mark.parametrize("operation, name, value, error", CASES)
def test_a_wrong_argument_is_named(operation: str, name: str, value: Any, error: type[Exception]) -> None:
    options = CALLS[operation] | {name: value}
    if name == "n_slices" and operation == "energy_distance":
        options["method"] = "sliced"
    with pytest.raises(error) as caught:
        getattr(kantor_kernels, operation)(**options)
    message = str(caught.value)
    assert re.search(rf"\b{name}\b|no {name} ", message), message
    assert "got" in message or "has no backend" in message, message


@pytest.mark.parametrize("operation", CALLS)
def test_numbers_of_numpy_and_of_one_element_are_numbers(operation: str) -> None:
    parameters = inspect.signature(getattr(kantor_kernels, operation)).parameters
    for name in {"exponent", "target", "weight"} & parameters.keys():
        for value in (1, np.float32(1), np.int64(1), torch.ones(())):
            getattr(kantor_kernels, operation)(**CALLS[operation], **{name: value})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Energy("1"), "exponent must be a number, got '1'; pass a float"),  # pyright: ignore[reportArgumentType]
        (lambda: Energy(True), "exponent must be a number, got True"),
        (lambda: Gaussian(["1"]), "bandwidths must be a number, got '1'"),  # pyright: ignore[reportArgumentType]
        (lambda: Gaussian(None), "bandwidths must be a number, got None"),  # pyright: ignore[reportArgumentType]
        (lambda: RationalQuadratic(torch.ones(2, requires_grad=True)), "alphas must be a number, got a tensor of"),  # pyright: ignore[reportArgumentType]
        (lambda: Polynomial("3"), "degree must be a number"),  # pyright: ignore[reportArgumentType]
        (lambda: Polynomial(3, "1"), "offset must be a number"),  # pyright: ignore[reportArgumentType]
        (lambda: kantor_kernels.MMDLoss(Gaussian), "kernel must be a Kernel, got the class Gaussian; pass Gaussian"),  # pyright: ignore[reportArgumentType]
        (lambda: kantor_kernels.GradientPenalty(one_sided="yes"), "one_sided must be True or False, got 'yes'"),  # pyright: ignore[reportArgumentType]
        (lambda: kantor_kernels.EnergyDistanceLoss("1"), "exponent must be a number"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_kernels_and_modules_check_when_they_are_made(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "operation, name",
    [
        ("energy_distance", "weight_x"),
        ("kernel_potential", "weight_y"),
        ("self_energy", "weight_y"),
        ("sliced_energy_distance", "weight_y"),
        ("two_sample_test", "weight_x"),
        ("gradient_penalty", "weights"),
    ],
)
def test_weights_that_are_not_finite_are_called_so(operation: str, name: str, bad: float) -> None:
    weights = torch.ones(6)
    weights[2:4] = bad
    with pytest.raises(ValueError, match=f"{name} has 2 of 6 entries that are NaN or infinite; leave"):
        getattr(kantor_kernels, operation)(**CALLS[operation], **{name: weights})


def test_a_backend_that_cannot_run_here_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody installs what would be refused then."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backends, "_INSTALLED", {"numba": False, "triton": False})
    with pytest.raises(ValueError, match="it cannot run on cpu tensors"):
        kantor_kernels.energy_distance(X, Y, backend="triton")
    meta: Tensor = X.to("meta")
    with pytest.raises(ValueError, match="it cannot run on meta tensors"):
        kantor_kernels.energy_distance(meta, meta, backend="cpu")


def test_nothing_waits_for_a_device() -> None:
    """On a device without values the checks of a differentiable operation read none, beside those of weights."""
    x, y = X.to("meta").requires_grad_(), Y.to("meta")
    assert kantor_kernels.energy_distance(x, y, backend="torch").device.type == "meta"
    eps = torch.empty(6, device="meta")
    assert kantor_kernels.gradient_penalty(lambda x: x.square().sum(1), x, y, eps=eps).device.type == "meta"
