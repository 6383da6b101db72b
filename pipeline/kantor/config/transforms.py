"""Transforms between physical columns and what the networks see."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kantor.config.base import Positive, Settings


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


class Spike(Settings):
    """Spread an exact value over an interval that is opened for it, where others lie arbitrarily near."""

    kind: Literal["spike"]
    value: float = Field(default=0.0, description="the exact value [unit of the column]")
    width: Positive = Field(
        description="of the interval: what is above and below moves away by half of it, and back in generation [unit "
        "of the column]"
    )


class Quantised(Settings):
    """Spread values on a grid, such as integers or 0 and 1, evenly over its steps (arXiv:1511.01844)."""

    kind: Literal["quantised"]
    step: Positive = Field(default=1.0, description="distance of neighbouring values [unit of the column]")
    origin: float = Field(default=0.0, description="one of the values [unit of the column]")


Transform = Annotated[
    Standardise | Log | LogDistance | QuantileNormal | Dequantise | Spike | Quantised,
    Field(discriminator="kind"),
]
