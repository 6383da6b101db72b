"""A small conditional, signed-weighted dataset, staged for real, and a training on it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kantor.config import Dataset, Training
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks

ROWS = 2000


@pytest.fixture(scope="session")
def weighted_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two features that depend on one condition, with sWeights-like weights: a fifth of them negative."""
    directory = tmp_path_factory.mktemp("weighted")
    rng = np.random.default_rng(5)
    momentum = rng.uniform(1, 10, ROWS)
    response = rng.normal(momentum, 0.5)
    np.savez(
        directory / "events.npz",
        momentum=momentum,
        response=response,
        width=rng.gamma(2.0, 1.0, ROWS) + 0.1,
        sweight=np.where(rng.random(ROWS) < 0.2, -0.5, 1.2),
    )
    dataset = Dataset.model_validate(
        {
            "source": {
                "kind": "file",
                "paths": [str(directory / "events.npz")],
                "features": ["response", "width"],
                "conditions": ["momentum"],
                "weight": "sweight",
                "units": {"momentum": "GeV"},
            }
        }
    )
    stage("weighted", dataset, directory / "staged", Ranks(), processes=1)
    return directory / "staged" / "manifest.json"


@pytest.fixture(scope="session")
def small_training() -> Training:
    """A training that takes a second."""
    return Training.model_validate(
        {
            "dataset": "weighted",
            "transforms": {"width": [{"kind": "log"}, {"kind": "standardise"}]},
            "critic_features": {"ratio": "response / momentum"},
            "generator": {"latent": 4, "width": 16, "depth": 2},
            "critic": {"width": 16, "depth": 2},
            "objective": {"kind": "wgan_gp"},
            "batch": 64,
            "steps": 40,
            "log_every": 5,
            "checkpoint_every": 10,
            "evaluate_every": 20,
            "evaluate_rows": 200,
        }
    )


@pytest.fixture(scope="session")
def dis_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 events, 2,000 of them in the test split."""
    pytest.importorskip("pythia8mc")
    out = tmp_path_factory.mktemp("dis")
    split = {"train": 0.4, "validation": 0.2, "test": 0.4}
    dataset = Dataset.model_validate({"source": {"kind": "dis", "events": 5000, "block": 5000}, "split": split})
    stage("dis", dataset, out, Ranks(), processes=1)
    return out / "manifest.json"


@pytest.fixture(scope="session")
def dis_momenta(dis_manifest: Path) -> np.ndarray:
    return read_split(dis_manifest, "train").features


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
