"""The Triton backend: the tests of this folder on its interpreter, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kantor_kernels import Polynomial, energy_distance, mmd

INTERPRETED = (
    "test_mmd_is_differentiable_twice",
    "test_gradients_equal_the_definition_in_float32",
    "test_one_pass_and_recomputed_gradients_agree",
    "test_a_third_derivative_is_refused",
    "test_coincident_points",
    "test_two_coincident_points_by_hand",
    "test_batches_are_independent",
    "test_non_contiguous_input",
    "test_potential_without_the_diagonal",
    "test_sizes_on_either_side_of_a_block",
)


QUICK = ("test_two_coincident_points_by_hand", "test_non_contiguous_input")


@pytest.mark.parametrize("names", [QUICK, pytest.param(INTERPRETED, marks=pytest.mark.slow)], ids=["quick", "all"])
@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="this is the interpreter's own process")
def test_the_interpreter_passes_the_tests_of_this_folder(names: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)]
    command += ["-k", f"({' or '.join(names)}) and not polynomial"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_it_refuses_what_it_cannot_run() -> None:
    x = torch.randn(4, 2)
    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ValueError, match="cannot run on cpu"):
            energy_distance(x, x, backend="triton")
        return
    with pytest.raises(ValueError, match="at most 16 features"):
        energy_distance(torch.randn(4, 17), torch.randn(4, 17), backend="triton")
    with pytest.raises(ValueError, match="radial"):
        mmd(x, x, kernel=Polynomial(), backend="triton")
