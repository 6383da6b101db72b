"""What can go wrong, and the exit code each kind of failure ends with."""


class KantorError(Exception):
    """A failure that names what happened, where, and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, cure: str | None = None) -> None:
        self.what, self.where, self.cure = what, where, cure
        lines = [what if where is None else f"{where}: {what}"]
        if cure is not None:
            lines.append(f"  cure: {cure}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (staging pool, Ray), where keyword arguments would be lost.
        return _rebuild, (type(self), self.what, self.where, self.cure)


def _rebuild(kind: type[KantorError], what: str, where: object, cure: str | None) -> KantorError:
    return kind(what, where=where, cure=cure)


class InputError(KantorError):
    """The user's input cannot be used: files, columns, values, permissions, space."""

    exit_code = 2


class ConfigError(InputError):
    """The configuration is not valid."""


class TrainingError(KantorError):
    """A training cannot go on: a non-finite loss or gradient, a worker that failed for good."""


class Interrupted(KantorError):  # noqa: N818 - not an error: the run stopped on request and can be resumed
    """The run stopped on request or out of time; the same command resumes it (EX_TEMPFAIL)."""

    exit_code = 75
