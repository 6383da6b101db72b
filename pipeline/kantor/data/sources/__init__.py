"""Sources of events by their `kind` in the configuration."""

from collections.abc import Callable
from typing import Any

from kantor import config
from kantor.data.sources.base import Chunk, Source
from kantor.data.sources.calochallenge import CaloChallenge
from kantor.data.sources.calogan import CaloGan
from kantor.data.sources.dis import DisEvents
from kantor.data.sources.file import Files
from kantor.data.sources.geant4 import Geant4Showers
from kantor.data.sources.jetnet import JetNet
from kantor.data.sources.muon import MuonTracks
from kantor.data.sources.rich import RichTracks
from kantor.data.sources.toys import Grid, Ring, SwissRoll

__all__ = ["Chunk", "Source", "make_source"]

_KINDS: dict[type[config.Source], Callable[[Any, int], Source]] = {
    config.DisSource: DisEvents,
    config.RingSource: Ring,
    config.GridSource: Grid,
    config.SwissRollSource: SwissRoll,
    config.Geant4Source: Geant4Showers,
    config.CaloChallengeSource: CaloChallenge,
    config.CaloGanSource: CaloGan,
    config.JetNetSource: JetNet,
    config.RichSource: RichTracks,
    config.MuonSource: MuonTracks,
    config.FileSource: Files,
}


def make_source(settings: config.Source, rows: int) -> Source:
    """The source that a configuration asks for.

    Args:
        rows: how many a chunk or a piece may well have, where the source can choose.
    """
    return _KINDS[type(settings)](settings, rows)
