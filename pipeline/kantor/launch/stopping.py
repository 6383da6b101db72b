"""Signals that ask a training to save a checkpoint and stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from kantor.machine.progress import log
from kantor.training.job import Job


@contextmanager
def on_signal(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """On SIGTERM and SIGUSR2."""
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopping(job: Job) -> AbstractContextManager[None]:
    """A signal leaves the file that all ranks look for: Ray's are threads of other processes, which get no signals."""

    def ask(number: int, _: object) -> None:
        log.info(f"{signal.Signals(number).name}: saving a checkpoint and stopping")
        job.stop_request.touch()

    return on_signal(ask)
