"""What every kind of source is to staging: events in pieces, and what is known of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kantor import config
from kantor.data.manifest import GeneratorFacts
from kantor.results import Column


@dataclass(frozen=True)
class Chunk:
    """Some rows of a source in float64: features, then conditions by name, (n, *shape) each, and weights (n,) if any.

    facts: what the generator says of these events, if it says anything; `Source.facts` puts all chunks together.
    """

    columns: dict[str, np.ndarray]
    weights: np.ndarray | None = None
    facts: object = None


class Source(ABC):
    """A source of events, which come in pieces that ranks and processes share.

    A piece depends on the settings and its number only, so that any number of processes makes the same events.
    """

    @property
    @abstractmethod
    def features(self) -> Sequence[Column]: ...

    @property
    def conditions(self) -> Sequence[Column]:
        return ()

    def check(self) -> None:
        """Raise `InputError` for what can be refused before any work."""
        return

    @property
    @abstractmethod
    def pieces(self) -> int:
        """How many pieces there are."""

    @abstractmethod
    def chunks(self, piece: int) -> Iterator[Chunk]:
        """The events of a piece in their order, some at a time."""

    @abstractmethod
    def describe(self) -> str:
        """What the events are, for people."""

    def where(self, piece: int) -> str:
        """Where the rows of a piece come from, for errors."""
        return f"piece {piece}"

    @abstractmethod
    def origin(self, piece: int) -> Mapping[str, str | int]:
        """What a shard of this piece says of where its rows come from."""

    @property
    def physics(self) -> config.Physics | None:
        """What is known of the physics of these events."""
        return None

    @property
    def constants(self) -> Mapping[str, float]:
        """Constants of nature that the events were made with, such as proton_mass [GeV]."""
        return {}

    def facts(self, parts: Sequence[object]) -> GeneratorFacts | None:
        """What the generator says of all events together, from the facts of all chunks."""
        return None
