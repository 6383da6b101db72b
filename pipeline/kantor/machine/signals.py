"""Being told by a signal to stop."""

import signal
from collections.abc import Callable
from types import FrameType

from kantor.errors import Interrupted


class Told:
    """A handler of signals that raises, and raises again when asked whether it was told.

    An exception from a handler is lost where Python is in a callback: of a fork, of the garbage collector, of the lock
    of an import. Whoever waits in steps calls `check` at each.

    Args:
        error: what to raise on a signal of this number.
    """

    def __init__(self, error: Callable[[int], BaseException]) -> None:
        self._error = error
        self._number: int | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Be told by signal `number`."""
        self._number = number
        self.check()

    def check(self) -> None:
        """Raise the error if a signal has come."""
        if self._number is not None:
            raise self._error(self._number)


def stopped_before(what: str) -> Callable[[int], Interrupted]:
    """The error of a run that was told to stop before there was anything to save."""
    return lambda number: Interrupted(f"{signal.Signals(number).name} before {what}", cure="run the same command again")
