"""Coordinates: invertible maps of several features together (docs/coordinates.md)."""

from collections.abc import Mapping, Sequence
from math import pi
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from kantor.config.base import ColumnName, Name, NonNegative, Positive, Settings, known, parsed
from kantor.config.transforms import Log, LogDistance, Standardise, Transform
from kantor.expressions import Expression

TURN = (-pi, pi)
"""Where angles begin and end [rad]."""

Range = tuple[float, float]
Chain = Annotated[list[Transform], Field(min_length=1)]
Momentum = tuple[ColumnName, ColumnName, ColumnName]


class Coordinates(Settings):
    """What all maps have whose coordinates are numbers with names.

    A coordinate is generated after a chain of transforms, or as the cosine and sine of an angle, or not at all: what is
    uniform and independent of everything else is drawn.
    """

    transforms: dict[ColumnName, Chain] = Field(
        default={}, description="chain of transforms of each coordinate; none: that of its kind, or standardise"
    )
    uniform: list[ColumnName] = Field(
        default=[],
        description="coordinates that are uniform and independent of everything else: the network does not generate "
        "them, they are drawn",
    )
    periodic: list[ColumnName] = Field(
        default=[], description="coordinates that are angles: the networks see cosine and sine"
    )

    unnamed_angles: ClassVar[Literal["uniform", "periodic"]] = "periodic"
    """What the angle of a momentum is that the user says nothing of."""

    @property
    def mapped(self) -> Sequence[str]:
        """The features."""
        raise NotImplementedError

    @property
    def arrays(self) -> bool:
        """Whether the features are arrays."""
        return False

    @property
    def conditions(self) -> Sequence[str]:
        """The conditions that are read."""
        return ()

    @property
    def names(self) -> Sequence[str]:
        """The coordinates."""
        raise NotImplementedError

    @property
    def angles(self) -> Sequence[str]:
        """Coordinates that are angles by what they are."""
        return ()

    @property
    def defaults(self) -> Mapping[str, Sequence[Transform]]:
        """Chains of coordinates that the user says nothing of, of those that are not to be standardised."""
        return {}

    def range_of(self, name: str) -> Range:
        """Where a uniform or periodic coordinate begins and ends."""
        return TURN

    def treatment(self, name: str) -> Literal["uniform", "periodic"] | Sequence[Transform]:
        """How a coordinate is generated: drawn, as cosine and sine, or after a chain of transforms."""
        if name in self.uniform:
            return "uniform"
        if name in self.periodic:
            return "periodic"
        if name in self.transforms:
            return self.transforms[name]
        return self.unnamed_angles if name in self.angles else self.defaults.get(name, [Standardise()])

    @model_validator(mode="after")
    def _coordinates_are_known_and_treated_once(self) -> Self:
        named = [*self.transforms, *self.uniform, *self.periodic]
        for name in named:
            known(name, self.names, f"coordinates, kind {getattr(self, 'kind', '')},")
            if named.count(name) > 1:
                raise ValueError(
                    f"coordinates: '{name}' stands in two of 'transforms', 'uniform' and 'periodic': choose one"
                )
        if len(set(self.mapped)) < len(self.mapped):
            raise ValueError("coordinates: a feature stands twice in 'columns'")
        return self


class Ranged(Coordinates):
    """Of coordinates whose meaning is the user's."""

    ranges: dict[ColumnName, Range] = Field(
        default={},
        description="where uniform and periodic coordinates begin and end [unit of the coordinate]; none: -pi and pi",
    )

    def range_of(self, name: str) -> Range:
        return self.ranges.get(name, TURN)

    @model_validator(mode="after")
    def _ranges_are_needed(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if name not in (*self.uniform, *self.periodic):
                raise ValueError(f"coordinates: 'ranges' has '{name}', which is neither uniform nor periodic")
            if not low < high:
                raise ValueError(f"coordinates.ranges.{name}: {low:g} is not below {high:g}: give the lower end first")
        return self


class Plain(Ranged):
    """Features as they are, so that some can be declared uniform or periodic."""

    kind: Literal["plain"]
    columns: Annotated[list[ColumnName], Field(min_length=1)] = Field(
        description="the features, which are also the names of the coordinates"
    )

    @property
    def mapped(self) -> Sequence[str]:
        return self.columns

    @property
    def names(self) -> Sequence[str]:
        return self.columns


class OfMomentum(Coordinates):
    """Maps of a momentum."""

    columns: Momentum = Field(default=("px", "py", "pz"), description="the momentum along x, y and z, each a feature")

    @property
    def mapped(self) -> Sequence[str]:
        return self.columns

    @property
    def angles(self) -> Sequence[str]:
        return ("phi",)


class Cylindrical(OfMomentum):
    """(px, py, pz) as pt, phi, and pz or the pseudorapidity eta."""

    kind: Literal["cylindrical"]
    along: Literal["pz", "eta"] = Field(default="pz", description="what stands for the direction along the beam")

    @property
    def names(self) -> Sequence[str]:
        return ("pt", self.along, "phi")


class Spherical(OfMomentum):
    """(px, py, pz) as p, theta (to the z axis), phi: FAT-GAN's second representation (arXiv:2001.11103)."""

    kind: Literal["spherical"]

    @property
    def names(self) -> Sequence[str]:
        return ("p", "theta", "phi")


class DisCoordinates(OfMomentum):
    """The scattered electron of deep inelastic scattering as q2, beside it pz, y or x, and phi, which is drawn.

    By default log(q2 - q2_min) and log(electron_energy - pz) are generated, so that no event lies beyond either edge.
    """

    kind: Literal["dis"]
    beside: Literal["pz", "y", "x"] = Field(
        default="pz", description="the second coordinate: pz [GeV], the inelasticity y, or Bjorken's x"
    )
    electron_energy: Positive = Field(default=50.0, description="electron beam energy [GeV]")
    proton_energy: Positive = Field(default=50.0, description="proton beam energy, of which x depends [GeV]")
    q2_min: NonNegative = Field(
        default=2.0, description="edge above which every Q2 lies, in training and in generation [GeV2]"
    )

    unnamed_angles: ClassVar[Literal["uniform", "periodic"]] = "uniform"

    @property
    def names(self) -> Sequence[str]:
        return ("q2", self.beside, "phi")

    @property
    def defaults(self) -> Mapping[str, Sequence[Transform]]:
        above = LogDistance(kind="log_distance", edge=self.q2_min, side="above")
        below = LogDistance(kind="log_distance", edge=self.electron_energy, side="below")
        second = below if self.beside == "pz" else Log(kind="log")
        return {"q2": [above, Standardise()], self.beside: [second, Standardise()]}


class Expressions(Ranged):
    """Coordinates by the user's own expressions, with the expressions of the way back."""

    kind: Literal["expressions"]
    forward: Annotated[dict[Name, str], Field(min_length=1)] = Field(
        description="coordinate -> expression of features and conditions"
    )
    inverse: dict[ColumnName, str] = Field(
        description="feature -> expression of the coordinates and conditions; training checks that they lead back"
    )
    tolerance: Positive = Field(
        default=1e-6,
        description="by how much a training row may come back differently, relative to the size and spread of the "
        "feature",
    )

    @property
    def mapped(self) -> Sequence[str]:
        return list(self.inverse)

    @property
    def conditions(self) -> Sequence[str]:
        read = {name for text in self.forward.values() for name in Expression(text).names} - set(self.mapped)
        read |= {name for text in self.inverse.values() for name in Expression(text).names} - set(self.names)
        return sorted(read)

    @property
    def names(self) -> Sequence[str]:
        return list(self.forward)

    @field_validator("forward", "inverse")
    @classmethod
    def _expressions_parse(cls, expressions: dict[str, str]) -> dict[str, str]:
        parsed(expressions.values())
        return expressions

    @model_validator(mode="after")
    def _as_many_there_as_back(self) -> Self:
        if len(self.forward) != len(self.inverse):
            raise ValueError(
                f"coordinates: {len(self.inverse)} features cannot be {len(self.forward)} coordinates and come back: "
                "give as many of either"
            )
        return self


class Shower(Settings):
    """A calorimeter's layers as total over incident energy, shares of layers, shares of voxels (arXiv:2106.05285)."""

    kind: Literal["shower"]
    layers: Annotated[list[ColumnName], Field(min_length=1)] = Field(
        description="features that are the layers, in the order of depth; one feature alone has them along axis 0"
    )
    energy: ColumnName = Field(description="the condition that is the incident energy")
    scale: Positive = Field(
        default=1.0, description="unit of the incident energy in that of the layers, 1000 for GeV beside MeV"
    )
    threshold: Positive = Field(
        description="voxels below it are empty, in training and in generation [unit of the layers]"
    )
    closed: bool = Field(
        default=True,
        description="the voxels of a layer are scaled to its energy, so that the generated total is what voxels and "
        "layers add up to; false: voxels stay as generated, and the total is what they happen to add up to",
    )
    margin: Annotated[float, Field(gt=0, lt=0.1)] = Field(
        default=1e-6, description="what logarithms of odds keep from 0 and 1, so that they are finite"
    )
    largest: Positive | None = Field(
        default=None,
        description="largest total over incident energy that is generated; none: 1.05 times that of the training rows",
    )
    expected: tuple[Positive, Positive] = Field(
        default=(0.005, 5.0),
        description="where the median of total over incident energy may lie, since units are easily mixed up",
    )

    @property
    def mapped(self) -> Sequence[str]:
        return self.layers

    @property
    def arrays(self) -> bool:
        return True

    @property
    def conditions(self) -> Sequence[str]:
        return [self.energy]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("a layer stands twice in 'layers'")
        if not self.expected[0] < self.expected[1]:
            raise ValueError("expected: give the lower end first")
        return self


AnyCoordinates = Annotated[
    Shower | Plain | Cylindrical | Spherical | DisCoordinates | Expressions, Field(discriminator="kind")
]
