"""Transforms between physical columns and what the networks see."""

from typing import Annotated, Literal

from pydantic import Field

from kantor.config.base import Settings


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


Transform = Annotated[Standardise | Log | LogDistance | QuantileNormal, Field(discriminator="kind")]
