"""Saying what is being done: a bar with the time left on a terminal, plain lines everywhere else."""

import logging
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

log = logging.getLogger("kantor")


class _LogFile(logging.FileHandler):
    """A log file that says once that it cannot be written; a full disk must not end what is logged."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self.failed:
            self.failed = True
            log.warning(f"{self.baseFilename}: the log is not complete: {sys.exception()}")


class _Terminal(logging.StreamHandler[TextIO]):
    """Stderr, which may be closed."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


def configure(log_file: Path | None) -> None:
    """Send `log` to stderr, and with times into `log_file`."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        with suppress(OSError):  # on a full disk, where it was said already
            handler.close()
    log.setLevel(logging.INFO)
    log.propagate = False
    terminal = _Terminal(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(terminal)
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = _LogFile(log_file, mode="a", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
        log.addHandler(file)


class Progress:
    """Progress towards `total`, shown at most every `interval` seconds.

    On a terminal one line is redrawn; elsewhere, and always in the log file, a plain line is written.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, interval: float = 15.0) -> None:
        self.label, self.total, self.done = label, total, done
        self._first, self._began = done, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._line_every, self._draw_every = interval, 0.2
        self._last_line = self._last_draw = self._began

    def update(self, done: int, note: str = "") -> None:
        """`done` of `total` are finished; `note` says a word on how it goes."""
        self.done, now = done, time.monotonic()
        if self._terminal and now - self._last_draw >= self._draw_every:
            self._last_draw = now
            sys.stderr.write(f"\r\033[K{self._bar()} {self._text(note)}")
            sys.stderr.flush()
        if now - self._last_line >= self._line_every:
            self._last_line = now
            self._write(self._text(note))

    def close(self, note: str = "") -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K")
        spent = duration(time.monotonic() - self._began)
        log.info(f"{self.label}: {self.done:,} of {self.total:,} in {spent} {note}".rstrip())

    def _bar(self, width: int = 24) -> str:
        filled = width * self.done // max(self.total, 1)
        return "█" * filled + "░" * (width - filled)

    def _text(self, note: str) -> str:
        spent = time.monotonic() - self._began
        fresh = self.done - self._first
        left = f", {duration(spent / fresh * (self.total - self.done))} left" if fresh > 0 else ""
        return f"{self.label}: {self.done:,} of {self.total:,}{left} {note}".rstrip()

    def _write(self, text: str) -> None:
        for handler in log.handlers:
            # A terminal already shows the bar.
            if isinstance(handler, logging.FileHandler) or not self._terminal:
                handler.emit(log.makeRecord(log.name, logging.INFO, "", 0, text, (), None))


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
