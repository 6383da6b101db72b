"""Toy distributions of the GAN literature in two dimensions: Gaussians on a ring or a grid, and a spiral."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kantor import config
from kantor.data.sources.base import Chunk, Source
from kantor.results import Column

BLOCK = 100_000  # events that share a random seed


class ToyEvents(Source):
    """Events (x, y) in independently seeded blocks, which are the pieces."""

    def __init__(self, settings: config.RingSource | config.GridSource | config.SwissRollSource) -> None:
        self._settings = settings

    @property
    def features(self) -> Sequence[Column]:
        return Column(name="x"), Column(name="y")

    @property
    def pieces(self) -> int:
        return -(-self._settings.events // BLOCK)

    def chunks(self, piece: int) -> Iterator[Chunk]:
        yield Chunk(dict(zip(("x", "y"), self.generate(piece).T, strict=True)))

    def describe(self) -> str:
        return f"{self._settings.events:,} events of the toy '{self._settings.kind}'"

    def origin(self, piece: int) -> Mapping[str, str | int]:
        return {"seed": self._settings.seed, "source": self._settings.canonical()}

    def generate(self, block: int) -> np.ndarray:
        """Events (n, 2) = (x, y) of one block; the last block may be shorter."""
        rows = min(BLOCK, self._settings.events - block * BLOCK)
        return self._draw(rows, np.random.default_rng([self._settings.seed, block]))

    @abstractmethod
    def _draw(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """(rows, 2)."""


class Gaussians(ToyEvents):
    """Equally frequent Gaussians of width sigma around the centres (modes, 2)."""

    def __init__(self, settings: config.RingSource | config.GridSource, centres: np.ndarray) -> None:
        super().__init__(settings)
        self._centres, self._sigma = centres, settings.sigma

    @property
    def physics(self) -> config.MixturePhysics:
        return config.MixturePhysics(kind="mixture", centres=self._centres.tolist(), sigma=self._sigma)

    def _draw(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        return self._centres[rng.integers(len(self._centres), size=rows)] + self._sigma * rng.standard_normal((rows, 2))


class Ring(Gaussians):
    """Evenly on a circle."""

    def __init__(self, settings: config.RingSource, rows: int) -> None:
        angle = 2 * np.pi * np.arange(settings.modes) / settings.modes
        super().__init__(settings, settings.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))


class Grid(Gaussians):
    """On a square grid around zero."""

    def __init__(self, settings: config.GridSource, rows: int) -> None:
        along = settings.spacing * (np.arange(settings.side) - (settings.side - 1) / 2)
        super().__init__(settings, np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2))


class SwissRoll(ToyEvents):
    """A noisy spiral."""

    def __init__(self, settings: config.SwissRollSource, rows: int) -> None:
        super().__init__(settings)
        self._noise, self._scale = settings.noise, settings.scale

    def _draw(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        angle = 1.5 * np.pi * (1 + 2 * rng.random(rows))
        points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return (points + self._noise * rng.standard_normal((rows, 2))) / self._scale
