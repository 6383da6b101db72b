"""The package as a whole: light to import, honest about its backends, and its own test tools."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils import _pytree

import kantor_kernels
from kantor_kernels import Energy, backends, critic_step
from kantor_kernels.critic_step.functional import Layers
from kantor_kernels.gradient_penalty.functional import Points
from kantor_kernels.pairwise import witness
from kantor_kernels.pairwise.functional import Pairs, Slopes
from kantor_kernels.permutation.functional import Pool
from kantor_kernels.sliced.functional import Directions
from kantor_kernels.testing import assert_close, poisoned_memory

IMPORT = """
import sys, torch
before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
import kantor_kernels
assert torch.equal(before[0], torch.get_rng_state())
assert before[1:] == (torch.get_default_dtype(), torch.get_num_threads())
assert not torch.cuda.is_initialized()
print([name for name in ("triton", "numba", "scipy", "ray", "matplotlib") if name in sys.modules])
"""


X, Y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
CRITIC = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def _descent(backend: str) -> critic_step.Descent:
    critic, rows = copy.deepcopy(CRITIC), torch.full((1, len(X)), 0.5)
    means, squares = ([torch.zeros_like(p) for p in critic.parameters()] for _ in range(2))
    adam = critic_step.AdamState(means, squares, 0, 1e-3)
    return critic_step.mlp_critic_descent(
        critic, X[None], Y[None], adam, eps=rows, coefficients=rows, penalty_coefficients=rows, backend=backend
    )


# A small call of every operation, by backend, and the problem that it is, by device.
CALLS: dict[str, Callable[[str], object]] = {
    "pairwise": lambda backend: kantor_kernels.mmd(X, Y, kernel=Energy(), backend=backend),
    "kernel_slope": lambda backend: kantor_kernels.kernel_slope(X, Y, backend=backend),
    "kernel_witness": lambda backend: kantor_kernels.kernel_witness(X, Y, at=X, backend=backend),
    "sliced": lambda backend: kantor_kernels.sliced_energy_distance(X, Y, backend=backend),
    "permutation": lambda backend: kantor_kernels.two_sample_test(X, Y, permutations=3, backend=backend),
    "gradient_penalty": lambda backend: kantor_kernels.gradient_penalty(CRITIC, X, Y, backend=backend),
    "critic_step": lambda backend: kantor_kernels.mlp_critic_step(CRITIC, X, Y, backend=backend),
    "mlp_critic_descent": lambda backend: _descent(backend),
    "mlp_forward": lambda backend: kantor_kernels.mlp_forward(CRITIC, X, backend=backend),
}
PROBLEMS: dict[str, Callable[[str], backends.Problem]] = {
    "pairwise": lambda device: Pairs(torch.device(device), torch.float32, 3, True),
    "kernel_slope": lambda device: Slopes(torch.device(device), True, 36),
    "kernel_witness": lambda device: witness.Pairs(torch.device(device), True),
    "sliced": lambda device: Directions(torch.device(device)),
    "permutation": lambda device: Pool(torch.device(device)),
    "gradient_penalty": lambda device: Points.of(copy.deepcopy(CRITIC).to(device), X.to(device), None),
    "critic_step": lambda device: Layers(torch.device(device), torch.float32, (3, 4, 1), True),
    "mlp_critic_descent": lambda device: Layers(torch.device(device), torch.float32, (3, 4, 1), True),
    "mlp_forward": lambda device: Layers(torch.device(device), torch.float32, (3, 4, 1), True),
}


def test_import_does_nothing() -> None:
    """No optional dependency, no GPU query, no seed, no default changed."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists_and_is_documented() -> None:
    for name in kantor_kernels.__all__:
        assert getattr(kantor_kernels, name).__doc__, name


def test_backends_are_chosen_by_device() -> None:
    for device, name in (("cpu", "cpu"), ("meta", "torch")):
        assert backends.choose("pairwise", "auto", PROBLEMS["pairwise"](device))[0].name == name
    backend, reason = backends.choose("pairwise", "torch", PROBLEMS["pairwise"]("cpu"))
    assert (backend.name, reason) == ("torch", "asked for")


def test_every_operation_is_known() -> None:
    assert PROBLEMS.keys() == CALLS.keys() == backends.operations()


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("name", ["triton", "compiled", "cpu", "torch", "closed", "reference", "fortran"])
def test_a_backend_runs_or_says_why_not(operation: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is what runs: never another one, and never without a word."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    seen: list[str] = []
    run = backends.InModule.run

    def spy(backend: backends.InModule, function: str, /, *arguments: object) -> object:
        seen.append(backend.name)
        return run(backend, function, *arguments)

    monkeypatch.setattr(backends.InModule, "run", spy)
    having = [backend.name for backend in backends.backends_of(operation)]
    if name not in having:
        with pytest.raises(ValueError, match=f"{operation} has no backend '{name}'; it has: auto, {', '.join(having)}"):
            CALLS[operation](name)
    elif name == "triton":
        with pytest.raises(ValueError, match=f"backend 'triton' of {operation} cannot run: .* on cpu tensors"):
            CALLS[operation](name)
    elif name == "compiled":
        monkeypatch.setattr(backends, "why_not_compile", lambda device: "no compiler")
        with pytest.raises(ValueError, match=f"backend 'compiled' of {operation} cannot run: no compiler"):
            CALLS[operation](name)
    else:
        CALLS[operation](name)
        # The closed form is a step's.
        assert set(seen) == ({"closed", "cpu"} if name == "closed" else {name})


@pytest.mark.parametrize("operation", sorted(CALLS.keys() - {"gradient_penalty"}))
def test_autocast_changes_nothing(operation: str) -> None:
    """But for `gradient_penalty`, whose critic is the caller's."""
    tensors = _pytree.tree_leaves
    for backend in (*backends.possible(operation, PROBLEMS[operation]("cpu")), "reference"):
        if backend == "compiled":
            continue
        results = []
        for enabled in (False, True):
            with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                torch.manual_seed(1)
                result = CALLS[operation](backend)
            results.append(tensors(vars(result) if hasattr(result, "__dict__") else result))
        for plain, casting in zip(*results, strict=True):
            assert torch.equal(torch.as_tensor(plain), torch.as_tensor(casting)), backend


@pytest.mark.parametrize("operation", CALLS)
def test_what_is_not_installed_says_so(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_INSTALLED", {"numba": False, "triton": False})
    for backend in backends.backends_of(operation):
        assert isinstance(backend, backends.InModule)
        if backend.package is not None:
            problem = PROBLEMS[operation](backend.devices[0])
            assert backend.why_not(problem) == f"{backend.package} is not installed"
    CALLS[operation]("auto")


def test_assert_close_refuses_nan_and_names_what_differs() -> None:
    one = torch.ones(3)
    assert_close("same", one, one)
    assert_close("baseline", one + 2e-7, one, baseline=one + 1.2e-7)
    with pytest.raises(AssertionError, match="d/dx: 1 of 3 values are NaN"):
        assert_close("d/dx", torch.tensor([1.0, float("nan"), 1.0]), one, atol=9.0)
    with pytest.raises(AssertionError, match="d/dx: 3 of 3 values are off"):
        assert_close("d/dx", one + 1, one, rtol=0.5)
    with pytest.raises(AssertionError, match="expected values contain NaN"):
        assert_close("d/dx", one, one * float("nan"))
    with pytest.raises(AssertionError, match="shape"):
        assert_close("d/dx", one[:2], one)


def test_poisoned_memory_shows_unwritten_output() -> None:
    with poisoned_memory():
        assert torch.empty(3).isnan().all()
        assert torch.ones(2).new_empty(2).isnan().all()
        assert torch.empty_like(torch.ones(2)).isnan().all()
        assert torch.empty(2, dtype=torch.int64).shape == (2,)
        assert not torch.zeros(3).isnan().any()
    assert not torch.zeros(3).isnan().any()
    # Replaced functions would be unknown to PyTorch's compiler from then on.
    assert not torch.are_deterministic_algorithms_enabled()
