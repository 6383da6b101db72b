"""Models to generate from: assembled, not trained, which is as good for where events come from and go to."""

from pathlib import Path

import pytest

from kantor.config import Dataset, Training
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks
from kantor.training.assembly import assemble


@pytest.fixture(scope="session")
def conditional(weighted_manifest: Path, small_training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Response and width under one condition, a momentum of 1 to 10 GeV."""
    path = tmp_path_factory.mktemp("conditional") / "model.pt"
    assemble(small_training, 1, weighted_manifest).bundle("small", {}).save(path)
    return path


@pytest.fixture(scope="session")
def ring(small_training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two features, no conditions."""
    directory = tmp_path_factory.mktemp("ring")
    stage("ring", Dataset.model_validate({"source": {"kind": "ring", "events": 1000}}), directory, Ranks(), processes=1)
    training = small_training.model_copy(update={"dataset": "ring", "transforms": {}, "critic_features": {}})
    assemble(training, 1, directory / "manifest.json").bundle("ring", {}).save(directory / "model.pt")
    return directory / "model.pt"
