"""What the rest of the configuration asks of every kind of source."""

from typing import Self

from kantor.config.base import Settings
from kantor.machine.inputs import found, is_remote


class Source(Settings):
    """A source of events."""

    @property
    def files(self) -> list[str]:
        """The user's own files on this machine that are read."""
        return []

    def resolved(self) -> Self:
        """The same with the paths that are there now, in place of patterns.

        Raises:
            InputError: a pattern has no match, or a variable no value.
        """
        return self

    @property
    def condition_names(self) -> list[str]:
        """A name for each number that the conditions are: name, or name[0] in an array."""
        return []

    @property
    def weighted(self) -> bool:
        """Whether its events have weights, which may be of either sign."""
        return False


class SourceOfFiles(Source):
    """Events from files, which `paths` names."""

    paths: list[str]

    @property
    def files(self) -> list[str]:
        return [path for path in found(self.paths) if not is_remote(path)]

    def resolved(self) -> Self:
        return self.model_copy(update={"paths": found(self.paths)})
