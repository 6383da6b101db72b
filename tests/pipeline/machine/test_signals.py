"""What is told to stop stops, even where Python drops the exception of the handler."""

import signal
import weakref

import pytest

from kantor.errors import Interrupted
from kantor.machine.signals import Told, stopped_before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_that_a_callback_swallows_comes_again() -> None:
    told = Told(stopped_before("Ray was there"))
    told.check()
    before = signal.signal(signal.SIGUSR1, told)

    class Garbage:
        pass

    garbage = Garbage()
    reference = weakref.ref(garbage, lambda _: signal.raise_signal(signal.SIGUSR1))
    try:
        del garbage
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert reference() is None
    with pytest.raises(Interrupted, match="SIGUSR1 before Ray was there"):
        told.check()


def test_elsewhere_it_is_raised_at_once() -> None:
    with pytest.raises(SystemExit, match="143"):
        Told(lambda number: SystemExit(128 + number))(signal.SIGTERM)
