"""Toy distributions of the GAN literature in two dimensions: Gaussians on a ring or a grid, and a spiral."""

import numpy as np

from kantor.config import GridSource, RingSource, SwissRollSource
from kantor.data.manifest import Column, Mixture

FEATURES = (Column(name="x"), Column(name="y"))

BLOCK = 100_000  # events that share a random seed
Source = RingSource | GridSource | SwissRollSource


def blocks(source: Source) -> int:
    """How many independently seeded blocks the events come in."""
    return -(-source.events // BLOCK)


def generate(source: Source, block: int) -> np.ndarray:
    """Events (n, 2) = (x, y) of one block; the last block may be shorter."""
    rows = min(BLOCK, source.events - block * BLOCK)
    rng = np.random.default_rng([source.seed, block])
    if isinstance(source, SwissRollSource):
        angle = 1.5 * np.pi * (1 + 2 * rng.random(rows))
        points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return (points + source.noise * rng.standard_normal((rows, 2))) / source.scale
    centres = _centres(source)
    return centres[rng.integers(len(centres), size=rows)] + source.sigma * rng.standard_normal((rows, 2))


def mixture(source: Source) -> Mixture | None:
    """The modes of the distribution, if it has any."""
    if isinstance(source, SwissRollSource):
        return None
    return Mixture(centres=_centres(source).tolist(), sigma=source.sigma)


def _centres(source: RingSource | GridSource) -> np.ndarray:
    """(modes, 2)."""
    if isinstance(source, RingSource):
        angle = 2 * np.pi * np.arange(source.modes) / source.modes
        return source.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = source.spacing * (np.arange(source.side) - (source.side - 1) / 2)
    return np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
