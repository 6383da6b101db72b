"""What is to be trained, from what, into which files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kantor.config import Training
from kantor.machine.files import sha256


@dataclass(frozen=True)
class Job:
    """One training with one seed.

    Args:
        name: name of the training in the configuration.
        manifest: manifest.json of the dataset.
        out: directory of model.pt, metrics.jsonl and run.json.
        fingerprint: checksum of the code; a checkpoint of other code is not resumed.
        workers: data-parallel ranks.
        threads: threads of each rank.
        gpus: whether each worker has a GPU.
        nodes: on which the workers are, equally many on each.
        scratch: where each node keeps a copy of the shards while it reads them: `auto`, `none` or a directory.
        ray_address: of the Ray that is asked for, if one is.
        deadline: time (seconds since the epoch) at which to stop and save, if any.
    """

    name: str
    seed: int
    settings: Training
    manifest: Path
    out: Path
    fingerprint: str
    workers: int = 1
    threads: int = 2
    gpus: bool = False
    nodes: int = 1
    scratch: str = "auto"
    ray_address: str | None = None
    deadline: float | None = None

    @property
    def key(self) -> str:
        """Names what is trained: equal keys mean that a checkpoint of one can be resumed by the other."""
        parts = (self.settings.canonical(), str(self.seed), sha256(self.manifest), self.fingerprint)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def checkpoints(self) -> Path:
        return self.out / ".checkpoints" / self.key

    @property
    def metrics(self) -> Path:
        """The metrics while training; they move to `out` with the finished model."""
        return self.checkpoints / "metrics.jsonl"

    @property
    def stop_request(self) -> Path:
        """When this file appears, all ranks save a checkpoint and stop."""
        return self.checkpoints / "stop"

    @property
    def notes(self) -> Path:
        """Where the ranks leave what the driver is to log, a file each."""
        return self.checkpoints / "notes"

    @property
    def failure(self) -> Path:
        """Where a rank says why it cannot go on."""
        return self.checkpoints / "failure.json"

    @property
    def reserve(self) -> Path:
        """Becomes the file `failure`, and has the space for it even where the disk is full."""
        return self.checkpoints / "failure.reserve"
