"""Particle identification: toy detectors on PYTHIA's kinematics, and what is known of a RICH (docs/pid.md)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kantor.config.base import Count, Curable, Name, Positive, Settings, known
from kantor.config.sources import Source

SPECIES = ("pion", "kaon", "proton", "electron", "muon")
"""What tracks are; the condition `species` holds the place in this list."""

BACKGROUND = 0.3


class TrackSource(Source):
    """Tracks of PYTHIA 8's minimum-bias pp collisions at 13 TeV, 2 < p < 150 GeV, 2 < eta < 5."""

    events: Count = Field(default=100_000, description="number of tracks, those of the background among them")
    species: list[str] | None = Field(
        default=None,
        description="pion, kaon, proton, electron, muon, or a list of these: what each track is taken for, equally "
        "often; none: what PYTHIA made it, four of five a pion. One species is no condition",
    )
    sweights: bool = Field(
        default=False,
        description="tracks of a background are among them, and all have sWeights, of which some are negative: the "
        "weighted distribution is that without background",
    )
    background: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description=f"fraction of tracks that are background; none: {BACKGROUND} with sweights"
    )
    seed: Annotated[int, Field(ge=0, le=899)] = Field(default=1, description="random seed of tracks and responses")
    block: Annotated[int, Field(gt=0, le=1_000_000)] = Field(
        default=25_000, description="tracks per independently seeded block; any number of ranks makes the same blocks"
    )

    @field_validator("species", mode="before")
    @classmethod
    def _one_species_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("species")
    @classmethod
    def _species_are_known(cls, value: list[str] | None) -> list[str] | None:
        for name in value or ():
            known(name, SPECIES, "species")
        if value is not None and (not value or len(set(value)) < len(value)):
            raise Curable("a list of species names each once, and at least one", "leave it out for those of PYTHIA")
        return value

    @model_validator(mode="after")
    def _a_background_has_weights(self) -> Self:
        if self.sweights and self.background == 0:
            raise Curable("sweights: there is no background to be weighted away", "raise 'background', or leave it out")
        if self.background and not self.sweights:
            raise Curable("background: nothing tells it from the rest without weights", "say sweights: true")
        if self.events > self.block * 1_000_000:
            raise Curable(f"{self.events} tracks make more than a million blocks", "raise 'block'")
        return self

    @property
    def background_fraction(self) -> float:
        """Of all tracks."""
        return 0.0 if not self.sweights else BACKGROUND if self.background is None else self.background

    @property
    def condition_names(self) -> list[str]:
        one = self.species is not None and len(self.species) == 1
        return ["p", "eta", "nTracks", "charge", *([] if one else ["species"])]

    @property
    def weighted(self) -> bool:
        return self.sweights


class RichSource(TrackSource):
    """Likelihoods DLLe, DLLmu, DLLk, DLLp, DLLbt of a toy of two Cherenkov detectors, on PYTHIA's kinematics."""

    kind: Literal["rich"]


class MuonSource(TrackSource):
    """MuonDLL and the binary IsMuon of a toy of four muon stations, on PYTHIA's kinematics."""

    kind: Literal["muon"]


class RichPhysics(Settings):
    """Cherenkov detectors: features DLLe, DLLmu, DLLk, DLLp, DLLbt, log likelihoods less that of a pion."""

    kind: Literal["rich"]
    momentum: Name | None = Field(default="p", description="condition that is the momentum [GeV or MeV]; none: unknown")
    pseudorapidity: Name | None = Field(
        default="eta", description="condition that is the pseudorapidity; none: not known"
    )
    refractive_index: Annotated[float, Field(gt=1)] | None = Field(
        default=None, description="the largest of all radiators, which sets the thresholds; none: not known"
    )
    photons: Positive | None = Field(
        default=None,
        description="the most photons that are expected of a track, which bound DLLs from below; none: not known",
    )
