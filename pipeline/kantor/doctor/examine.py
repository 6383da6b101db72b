"""All checks at once, each bounded in time, and how they are told."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue

from kantor.doctor import launchers, machine, slurm, storage
from kantor.doctor.finding import Checked, Diagnosis, Finding, failure, skipped
from kantor.doctor.processes import end_all
from kantor.machine.signals import Told

Check = tuple[str, Callable[[], Finding]]
# No check takes this long [s]; one that does hangs where nothing can end it, on a file system that is away.
_PATIENCE = 100.0


def checks(results: Path, scratch: str, *, quick: bool) -> list[Check]:
    """What is looked at, in the order in which it is told."""
    return [
        ("Python", machine.python),
        ("packages", machine.packages),
        ("PyTorch", machine.pytorch),
        ("GPU and NCCL", machine.gpu),
        ("Triton", machine.triton),
        ("memory", machine.memory),
        ("/dev/shm", machine.shared_memory),
        ("temporary directory", machine.temporary_directory),
        ("network", machine.network),
        ("mpiexec", launchers.mpiexec),
        ("srun", launchers.srun),
        ("Ray", (lambda: skipped("not started (--quick)")) if quick else launchers.ray),
        ("cache", storage.home),
        ("results", lambda: storage.results(results)),
        ("locks across hosts", lambda: storage.locks_across_hosts(results)),
        ("scratch", lambda: storage.scratch(scratch)),
        ("SLURM", slurm.commands),
        ("SLURM accounting", slurm.accounting),
        ("SLURM signals", slurm.signals),
        ("SLURM allocation", slurm.allocation),
    ]


def examine(chosen: list[Check], patience: float = _PATIENCE) -> Iterator[Checked]:
    """Run all checks together; yield what they find, in order."""
    told = Told(lambda number: SystemExit(128 + number))
    before = signal.signal(signal.SIGTERM, told)
    try:
        deadline = time.monotonic() + patience
        for name, answer in [(name, _start(name, look)) for name, look in chosen]:
            try:
                told.check()
                yield answer.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                hangs = failure(f"no answer within {patience:.0f} s", "a file system or service behind it hangs")
                yield _checked(name, hangs, patience)
    finally:
        end_all()
        signal.signal(signal.SIGTERM, before)


def _start(name: str, look: Callable[[], Finding]) -> "SimpleQueue[Checked]":
    answer: SimpleQueue[Checked] = SimpleQueue()

    def work() -> None:
        began = time.monotonic()
        try:
            finding = look()
        except Exception as error:  # a check that breaks is that check's failure, and no one else's
            finding = failure(f"the check itself failed: {type(error).__name__}: {error}", "please report this")
        answer.put(_checked(name, finding, time.monotonic() - began))

    # A thread that hangs in the kernel must not keep the command from ending.
    threading.Thread(target=work, name=name, daemon=True).start()
    return answer


def _checked(name: str, finding: Finding, seconds: float) -> Checked:
    found = " ".join(finding.found.split())
    return Checked(name=name, status=finding.status, found=found, cure=finding.cure, seconds=round(seconds, 2))


def diagnosis(checked: list[Checked]) -> Diagnosis:
    return Diagnosis(
        kantor=version("kantor"),
        host=socket.gethostname(),
        job=os.environ.get("SLURM_JOB_ID"),
        failures=sum(one.status == "failure" for one in checked),
        warnings=sum(one.status == "warning" for one in checked),
        checks=checked,
    )


def line(one: Checked) -> str:
    """A check as text: how it is, what it is about, what was found, and the cure below."""
    margin = " " * 29
    status = "-" if one.status == "skipped" else one.status
    return f"{status:<8} {one.name:<19} {one.found}" + (f"\n{margin}cure: {one.cure}" if one.cure else "")
