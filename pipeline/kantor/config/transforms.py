"""Transforms between physical columns and what the networks see."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kantor.config.base import ColumnName, Positive, Settings


class Standardise(Settings):
    """Subtract the mean, divide by the standard deviation."""

    kind: Literal["standardise"] = "standardise"


class Log(Settings):
    """log(x + offset)."""

    kind: Literal["log"]
    offset: float = Field(default=0.0, description="added before the logarithm [unit of the column]")


class LogDistance(Settings):
    """log of the distance to an edge that no value reaches, such as log(E_beam - pz)."""

    kind: Literal["log_distance"]
    edge: float = Field(description="the edge [unit of the column]")
    side: Literal["below", "above"] = Field(default="below", description="on which side of the edge the values lie")


class QuantileNormal(Settings):
    """Map the quantiles to those of a normal distribution, linearly between them."""

    kind: Literal["quantile_normal"]
    quantiles: Annotated[int, Field(ge=10)] = Field(default=1000, description="number of quantiles")


class Dequantise(Settings):
    """Spread an exact value, such as the zeros below a threshold, evenly over an interval that is otherwise empty."""

    kind: Literal["dequantise"]
    value: float = Field(default=0.0, description="the exact value [unit of the column]")
    interval: tuple[float, float] = Field(
        description="where it is spread in training, and snapped back from in generation [unit of the column]"
    )

    @model_validator(mode="after")
    def _interval_is_one(self) -> Self:
        if not self.interval[0] < self.interval[1]:
            raise ValueError(
                f"interval: {self.interval[0]:g} is not below {self.interval[1]:g}: give the lower end first"
            )
        return self


Transform = Annotated[
    Standardise | Log | LogDistance | QuantileNormal | Dequantise,
    Field(discriminator="kind"),
]


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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("a layer stands twice in 'layers'")
        if not self.expected[0] < self.expected[1]:
            raise ValueError("expected: give the lower end first")
        return self
