"""What a check finds, and the schema in which all findings are printed."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from kantor.results import Result

Status = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True)
class Finding:
    """found: what is so, in one line. cure: what to do about it, unless all is well."""

    status: Status
    found: str
    cure: str | None = None


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, cure: str) -> Finding:
    return Finding("warning", found, cure)


def failure(found: str, cure: str) -> Finding:
    return Finding("failure", found, cure)


def skipped(why: str) -> Finding:
    return Finding("skipped", why)


class Checked(Result):
    """One line of a diagnosis."""

    name: str
    status: Status = Field(description="skipped: there is nothing here to check, or it was not asked for")
    found: str
    cure: str | None
    seconds: float


class Diagnosis(Result):
    """What `kantor doctor --json` prints."""

    format: Literal[1] = 1
    kantor: str = Field(description="version of Kantor")
    host: str
    job: str | None = Field(description="SLURM_JOB_ID, inside an allocation")
    failures: int
    warnings: int
    checks: list[Checked]
