"""What every section of the configuration is built from."""

import difflib
import json
from collections.abc import Iterable
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kantor.errors import ConfigError
from kantor.expressions import Expression

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME)]
# A name as the reference calls it in a path, where it is not just any NAME.
ColumnName = Annotated[Name, Field(title="COLUMN")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
NonNegativeCount = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
T = TypeVar("T", bound=Iterable[str])


class Curable(ValueError):  # noqa: N818 - what validators raise
    """What is wrong with a field, for validators that know the cure."""

    def __init__(self, what: str, cure: str) -> None:
        self.cure = cure
        super().__init__(what)


class Settings(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical(self) -> str:
        """The section as JSON with every default filled in, so that equal means equal.

        Keys stand in the order of the schema; names that a user chose stay in the user's order, which is that of the
        columns they make.
        """
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"))


class Decay(Settings):
    """A factor that falls from one while progress goes from 0 to 1."""

    schedule: Literal["constant", "linear", "cosine", "exponential"] = Field(
        default="constant", description="how the value falls over the run"
    )
    final: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="fraction left in the end; none: 0, or 0.01 of an exponential"
    )

    @model_validator(mode="after")
    def _exponentials_never_reach_zero(self) -> Self:
        if self.schedule == "exponential" and self.final == 0:
            raise ValueError("an exponential never reaches zero: give a 'final' above 0, or take 'linear' or 'cosine'")
        return self


def parsed(texts: T) -> T:
    """`texts`, after making sure that each is an expression, for validators."""
    for text in texts:
        try:
            Expression(text)
        except ConfigError as error:
            raise ValueError(str(error).replace("\n ", ";")) from error
    return texts


def known(name: str, names: Iterable[str], field: str) -> None:
    """Raise `ValueError` where `field` names what is not there, for validators."""
    names = list(names)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(names)}"
        raise ValueError(f"{field} names '{name}', which is not defined; {hint}")
