"""The package as a whole: light to import, honest about its backends, and its own test tools."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import kantor_kernels
from kantor_kernels import backends
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


def test_import_does_nothing() -> None:
    """No optional dependency, no GPU query, no seed, no default changed."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists_and_is_documented() -> None:
    for name in kantor_kernels.__all__:
        assert getattr(kantor_kernels, name).__doc__, name


def test_backends_are_chosen_by_device() -> None:
    assert backends.choose("pairwise", "torch", torch.device("cpu")) == ("torch", "asked for")
    assert backends.choose("pairwise", "auto", torch.device("meta"))[0] == "torch"
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        backends.choose("pairwise", "cuda", torch.device("cpu"))


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
