"""Real DIS events, staged."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kantor.config import Dataset
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.ranks import Ranks


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small toys are slower on several threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
