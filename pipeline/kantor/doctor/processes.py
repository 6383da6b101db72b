"""Programs that a check runs: bounded in time, and none left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

_running: set[subprocess.Popen[str]] = set()


class Trouble(Exception):  # noqa: N818 - it is what a check reports
    """A program failed, or did not end in time."""


@contextmanager
def running(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program with all its children; whatever of them is left at the end is ended."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise Trouble(f"{command[0]} cannot be started: {error.strerror}") from error
    _running.add(process)
    try:
        yield process
    finally:
        _end(process)


def run(command: Sequence[str], seconds: float = 20, env: Mapping[str, str] | None = None) -> str:
    """What a program writes to its standard output.

    Raises:
        Trouble: it fails, with what it says last, or it does not end in time.
    """
    with running(command, env) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise Trouble(f"{os.path.basename(command[0])} did not end within {seconds:.0f} s") from error  # noqa: PTH119
    if process.returncode != 0:
        raise Trouble(last_words(command[0], process.returncode, errors or output))
    return output


def probe(program: str, seconds: float = 40, env: Mapping[str, str] | None = None, *arguments: str) -> Any:
    """What a Python program writes as JSON in its last line; it runs apart, since a library may crash it.

    Raises:
        Trouble: it fails, with the error it ends with, or it does not end in time.
    """
    return json.loads(run([sys.executable, "-c", program, *arguments], seconds, env).strip().splitlines()[-1])


def end_all() -> None:
    """End what the checks have started: they run in threads, which die without a word when the command is stopped."""
    for process in list(_running):
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(3)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    _running.discard(process)


def last_words(program: str, code: int, said: str) -> str:
    """How a program ended: of a traceback the last line says what happened."""
    words = [line.strip() for line in said.splitlines() if line.strip()]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return words[-1] if words else f"{os.path.basename(program)} {how}"  # noqa: PTH119


def srun_python(program: str, *arguments: str, nodes: int) -> list[str]:
    """Two tasks of this Python on `nodes` nodes of the allocation, beside whatever runs in it."""
    options = ["--mpi=pmi2", "--overlap", "--overcommit", f"--nodes={nodes}", "--ntasks=2"]
    return ["srun", *options, sys.executable, "-c", program, *arguments]
