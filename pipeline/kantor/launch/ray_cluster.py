"""A Ray cluster of the nodes of a SLURM step, for one command: started as subprocesses, gone when the command ends.

Every node of the step runs one task of `run`. The first starts Ray's head and the command, the others join; who is to
meet where stands in a file on the shared file system. A connection from each node to the first one tells either side
when the other ends, however it ends. `ray symmetric-run` is not enough: it exits with 0 when the head does not start,
needs a minute to end, and stops every Ray of its user on the node.
"""

import ctypes
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from kantor.errors import InputError, TrainingError
from kantor.launch.address import MARK
from kantor.machine import slurm
from kantor.machine.addresses import address_towards, free_ports, interface_of, listens
from kantor.machine.files import explained
from kantor.machine.progress import log
from kantor.machine.signals import Told, stopped_before

# How often a node looks at its processes [s].
_LOOK_EVERY = 0.1
# How long Ray may take to end by itself, and a node to say that it has [s].
_GRACE = 10.0
# The longest directory for Ray's sockets.
_LONGEST_BASE = 30
# What Ray's logs and compiled code need there, at least [bytes].
_SPACE = 64 << 20
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
# Nobody reads what it would repeat of Ray's logs: a training writes its own.
_RAY = (
    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
    *("--disable-usage-stats", "--include-log-monitor=false"),
)


@dataclass(frozen=True)
class Node:
    """What this node of the step offers.

    Args:
        job: names this step among all of the cluster.
        hosts: names of the step's nodes.
        rank: which of them this is; the first one is the head.
        memory: bytes that the job may use here; Ray would take all of the machine's for its own.
    """

    job: str
    hosts: tuple[str, ...]
    rank: int
    cpus: int
    gpus: int
    memory: int

    @classmethod
    def of_step(cls, environment: Mapping[str, str] = os.environ) -> "Node":
        """The node of this SLURM task; outside of a step, this machine."""
        in_step = "SLURM_STEP_NODELIST" in environment
        hosts = tuple(slurm.hosts(environment)) if in_step else ("localhost",)
        if in_step and int(environment["SLURM_NTASKS"]) != len(hosts):
            raise TrainingError(
                f"the SLURM step has {environment['SLURM_NTASKS']} tasks on {len(hosts)} nodes; one a node is needed",
                cure="srun --nodes=N --ntasks=N --ntasks-per-node=1",
            )
        return cls(
            job=_step_name(environment),
            hosts=hosts,
            rank=int(environment["SLURM_PROCID"]) if in_step else 0,
            cpus=int(environment.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0))),
            gpus=len([device for device in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]),
            memory=slurm.memory(environment),
        )

    def ray(self, ip: str, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Options of `ray start` and the environment of everything that belongs to this Ray."""
        # Enough for what Ray Train says; the data of a training never go through it.
        objects = min(max(self.memory // 20, 100 << 20), 1 << 30)
        agent, runtime = free_ports(ip, 2)
        options = {
            "--node-ip-address": ip,
            "--num-cpus": self.cpus,
            "--num-gpus": self.gpus,
            "--memory": max(self.memory * 8 // 10 - objects, 100 << 20),
            "--object-store-memory": objects,
            # Ray's fixed ports, on which two Rays of one node would meet; 0: any free one.
            "--dashboard-agent-listen-port": agent,
            "--runtime-env-agent-port": runtime,
            "--min-worker-port": 0,
            "--max-worker-port": 0,
        }
        variables = {
            "RAY_AUTH_MODE": "token",
            # SLURM holds the limits of the job; Ray would look at the whole machine and kill workers.
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_metrics_collection": "0",
        }
        # Where a host's name stands for its loopback interface, gloo would find no other node.
        if len(self.hosts) > 1 and (interface := interface_of(ip)):
            variables |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        return [str(part) for option in options.items() for part in option], {**variables, **environment}


def run(command: Sequence[str], *, meet_in: Path, join_timeout: float) -> int:
    """Run `command` on the first node with RAY_ADDRESS set, and Ray on all nodes of the step while it runs.

    SIGTERM, SIGUSR2 and SIGINT go to the command; Ray stays until it ends.

    Args:
        meet_in: directory that all nodes see.
        join_timeout: how long a node may take to join [s].

    Returns:
        The exit status of the command.

    Raises:
        InputError: the directory for temporary files is full.
        Interrupted: told to stop before the command was started.
        TrainingError: Ray did not start, a node did not join in time, or one was lost.
    """
    node = Node.of_step()
    meeting = meet_in.absolute() / f".kantor-ray-{node.job}.json"
    # On this node's own disk, and short, as paths of Unix sockets end at 107 characters.
    base = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_BASE else "/tmp"
    with _own_directory(Path(base)) as directory:
        if node.rank == 0:
            return _lead(node, command, meeting, directory, join_timeout)
        _follow(node, meeting, directory, join_timeout)
        return 0


def _lead(node: Node, command: Sequence[str], meeting: Path, directory: Path, join_timeout: float) -> int:
    driver: subprocess.Popen[bytes] | None = None
    told = Told(lambda number: KeyboardInterrupt() if number == signal.SIGINT else before_ray(number))
    before_ray = stopped_before("Ray was there")

    def forward(number: int, frame: FrameType | None) -> None:
        if driver is not None:
            driver.send_signal(number)
        else:
            told(number, frame)

    for number in _SIGNALS:
        signal.signal(number, forward)
    ip = address_towards(node.hosts[-1])
    token = secrets.token_hex(32)
    (port,) = free_ports(ip, 1)
    options, environment = node.ray(
        ip, {**os.environ, "RAY_AUTH_TOKEN": token, **dict.fromkeys(("RAY_ADDRESS", MARK), f"{ip}:{port}")}
    )
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((ip, 0)))
        stack.enter_context(_announced(meeting, {"control": listener.getsockname(), "token": token}))
        others = stack.enter_context(_Others(node, listener, token, f"{ip}:{port}", join_timeout))
        head = ["--head", "--port", str(port), "--include-dashboard=false", *_client_port(ip)]
        ray = stack.enter_context(_ray([*head, *options], environment, directory))
        began = time.monotonic()
        while not listens(ip, port):
            if time.monotonic() - began > join_timeout:
                raise TrainingError(f"Ray's head did not start in {join_timeout:.0f} s{_tail(directory)}")
            _check(ray, directory)
            others.look()
            told.check()
        others.invite()
        told.check()
        driver = stack.enter_context(_started(command, environment))
        told.check()  # while it was started
        while driver.poll() is None:
            _check(ray, directory)
            # While it starts, `ray start` does not see that its head has died.
            if not listens(ip, port):
                raise TrainingError(f"Ray's head ended on {socket.gethostname()}{_tail(directory)}")
            others.look()
        return driver.returncode if driver.returncode >= 0 else 128 - driver.returncode


def _client_port(ip: str) -> list[str]:
    """Where Ray's client server is installed it starts too, on a fixed port."""
    return ["--ray-client-server-port", str(free_ports(ip, 1)[0])] if find_spec("grpc") else []


def _follow(node: Node, meeting: Path, directory: Path, join_timeout: float) -> None:
    # The first node decides when to end: its command saves a checkpoint on these, and that needs Ray on all nodes.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    here, began = node.hosts[node.rank], time.monotonic()
    while not meeting.exists():
        if time.monotonic() - began > join_timeout:
            raise TrainingError(
                f"{here}: node {node.hosts[0]} started no Ray in {join_timeout:.0f} s",
                where=meeting,
                cure="see what that node says; start the job in a directory that all nodes share",
            )
        time.sleep(_LOOK_EVERY)
    known = json.loads(meeting.read_text(encoding="utf-8"))
    # The connection closes when Ray has ended here.
    with socket.create_connection(tuple(known["control"]), timeout=join_timeout) as control:
        control.sendall(f"{known['token']} {node.rank}\n".encode())
        address = control.makefile().readline().strip()
        if not address:
            raise TrainingError(f"{here}: node {node.hosts[0]} gave up before Ray was there, and says why")
        options, environment = node.ray(control.getsockname()[0], {**os.environ, "RAY_AUTH_TOKEN": known["token"]})
        with _ray(["--address", address, *options], environment, directory) as ray:
            while not select.select([control], [], [], _LOOK_EVERY)[0]:
                _check(ray, directory)


def _step_name(environment: Mapping[str, str]) -> str:
    """One for every try: a job that was put back into the queue starts with the same numbers."""
    if "SLURM_STEP_NODELIST" not in environment:
        return f"local.{os.getpid()}"
    return ".".join(environment.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "RESTART_COUNT", "STEP_ID"))


@contextmanager
def _own_directory(base: Path) -> Iterator[Path]:
    """A new directory, removed at the end; those of launchers that were killed are removed at the start."""
    for lock in base.glob("kray-*/lock"):
        with suppress(OSError), lock.open() as file:  # of another user, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)
    if (free := shutil.disk_usage(base).free) < _SPACE:
        raise InputError(
            f"{free >> 20} MiB are free here, and Ray needs {_SPACE >> 20} for its logs",
            where=f"{socket.gethostname()}:{base}",
            cure="free some space, or choose another directory of this node: export TMPDIR=/short/path",
        )
    with tempfile.TemporaryDirectory(prefix="kray-", dir=base, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with (directory / "new").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (directory / "new").rename(directory / "lock")  # never seen unlocked
            yield directory


@contextmanager
def _ray(options: Sequence[str], environment: Mapping[str, str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Ray's processes of this node, in a session of their own; none is left at the end."""
    with (directory / "ray.log").open("wb") as output:
        command = [*_RAY, "--temp-dir", str(directory), *options]
        with _started(command, environment, output=output, new_session=True) as ray:
            try:
                yield ray
            finally:
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    ray.terminate()
                    ray.wait(_GRACE)
                while left := _session(ray.pid):
                    for process in left:
                        with suppress(ProcessLookupError):
                            os.kill(process, signal.SIGKILL)
                    time.sleep(0.05)


@contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str], *, output: Any = None, new_session: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive this one, even where this one is killed."""
    with subprocess.Popen(
        command,
        env=environment,
        stdout=output,
        stderr=output,
        start_new_session=new_session,
        preexec_fn=_die_with_parent,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; Ray's own processes notice and end, too


def _session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name) state parent group session ...
            state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append(int(status.parent.name))
    return found


def _check(ray: subprocess.Popen[bytes], directory: Path) -> None:
    if ray.poll() is not None:
        raise TrainingError(f"Ray ended with exit status {ray.returncode} on {socket.gethostname()}{_tail(directory)}")


def _tail(directory: Path, lines: int = 15) -> str:
    said = (directory / "ray.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return "".join(f"\n  | {line}" for line in said[-lines:])


@contextmanager
def _announced(meeting: Path, known: Mapping[str, object]) -> Iterator[None]:
    """Whole at once, and for this user only: who knows the token can run commands."""
    partial = meeting.with_suffix(".partial")
    try:
        with explained(meeting):
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(known), encoding="utf-8")
            partial.rename(meeting)
        yield
    finally:
        for path in (partial, meeting):
            path.unlink(missing_ok=True)


class _Others:
    """The connections of the other nodes to the first one."""

    def __init__(self, node: Node, listener: socket.socket, token: str, address: str, join_timeout: float) -> None:
        self._hosts, self._listener, self._token, self._address = node.hosts, listener, token, address
        self._missing = dict(enumerate(node.hosts[1:], 1))
        self._timeout, self._deadline = join_timeout, time.monotonic() + join_timeout
        self._joined: dict[socket.socket, str] = {}
        self._invited = False

    def look(self) -> None:
        """Wait a moment for news.

        Raises:
            TrainingError: a node is lost or did not join in time.
        """
        for ready in select.select([self._listener, *self._joined], [], [], _LOOK_EVERY)[0]:
            if ready is self._listener:
                self._welcome()
            else:
                raise TrainingError(f"Ray ended on node {self._joined[ready]}")
        if self._missing and time.monotonic() > self._deadline:
            raise TrainingError(
                f"{len(self._missing)} of {len(self._hosts)} nodes did not join in {self._timeout:.0f} s:"
                f" {', '.join(self._missing.values())}",
                cure="look at these nodes, leave them out (sbatch --exclude=...), or allow more time (--join-timeout)",
            )

    def invite(self) -> None:
        """Ray's head is up: the others may join, now and later."""
        self._invited = True
        for connection in self._joined:
            connection.sendall(f"{self._address}\n".encode())

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(5)
        try:
            token, rank = connection.makefile().readline().split()
            host = self._missing.pop(int(rank)) if secrets.compare_digest(token, self._token) else None
        except (OSError, ValueError, KeyError):
            host = None
        if host is None:
            connection.close()  # somebody else on this network
            return
        self._joined[connection] = host
        if self._invited:
            connection.sendall(f"{self._address}\n".encode())
        if not self._missing:
            log.info(f"Ray on {len(self._hosts)} nodes: {', '.join(self._hosts)}")

    def __enter__(self) -> "_Others":
        return self

    def __exit__(self, *_: object) -> None:
        """Tell the others to end, and wait until they have."""
        for connection in self._joined:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 2 * _GRACE
        while self._joined and (left := deadline - time.monotonic()) > 0:
            for connection in select.select(list(self._joined), [], [], left)[0]:
                connection.close()
                del self._joined[connection]
