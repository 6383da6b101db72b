"""Two ranks give the gradient of one rank on the joined batch, and end with its weights (shared bars of the docs)."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kantor.config import Training

SCRIPT = Path(__file__).with_name("one_rank.py")
OBJECTIVES = {
    "wgan_gp": {"kind": "wgan_gp"},
    "cramer": {"kind": "cramer", "embedding": 8},
    "surrogate": {"kind": "cramer", "critic": "surrogate", "embedding": 8},
}


def run(settings: Training, manifest: Path, directory: Path, world: int) -> dict[str, Any]:
    out = directory / f"{world}.pt"
    arguments = [settings.canonical(), str(manifest), str(out)]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments, str(rank), str(world), str(directory / "rendezvous")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors
    return torch.load(out, weights_only=True)


def settings(small_training: Training, objective: str, precision: str) -> Training:
    changes = {
        "objective": OBJECTIVES[objective],
        "precision": precision,
        "n_critic": 5,
        "steps": 4,
        "generator_optimiser": {"learning_rate": 1e-3},
        "critic_optimiser": {"learning_rate": 1e-3},
    }
    return Training.model_validate(small_training.model_dump() | changes)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_ranks_are_one(objective: str, small_training: Training, weighted_manifest: Path, tmp_path: Path) -> None:
    precise = settings(small_training, objective, "float64")
    one, two = (run(precise, weighted_manifest, tmp_path, world) for world in (1, 2))
    assert one["computed by"] == two["computed by"] == "_KnownGradientsBackward"
    for name in ("critic gradient", "generator gradient"):
        assert one[name].abs().max() > 1e-3
        assert relative(one[name], two[name]) <= 1e-12, name
    # 20 critic and 4 generator updates.
    for name in ("critic", "generator", "losses"):
        assert relative(one[name], two[name]) <= 1e-10, name


@pytest.mark.parametrize("objective", ["wgan_gp", "cramer"])
def test_two_ranks_are_one_in_single_precision(
    objective: str, small_training: Training, weighted_manifest: Path, tmp_path: Path
) -> None:
    single = settings(small_training, objective, "float32")
    one, two = (run(single, weighted_manifest, tmp_path, world) for world in (1, 2))
    for name in ("critic gradient", "generator gradient"):
        assert relative(one[name], two[name]) <= 1e-5, name


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()
