"""Checks of what starts processes: mpiexec, srun and Ray."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kantor.doctor.finding import Finding, failure, ok, skipped, warning
from kantor.doctor.machine import memory_limit
from kantor.doctor.processes import Trouble, last_words, probe, run, running, srun_python

# What the ranks write may come in one line.
_RANK = """
from mpi4py import MPI
facts = MPI.COMM_WORLD.Get_size(), MPI.Get_processor_name(), MPI.Get_library_version().splitlines()[0].strip()
print("<<{}|{}|{}>>".format(*facts), flush=True)
"""


def mpiexec() -> Finding:
    """Two ranks started by `mpiexec` are one world."""
    # Where the workflow looks, too: beside this Python first.
    launcher = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    cure = "pip install mpich, or load your site's MPI and rebuild mpi4py for it: pip install --no-binary mpi4py mpi4py"
    if launcher is None:
        return warning("there is no mpiexec: validations run on one rank", cure)
    # Under SLURM mpiexec would start its ranks through srun.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PMI"))}
    try:
        return _world(run([launcher, "-n", "2", sys.executable, "-c", _RANK], 30, alone), launcher, cure)
    except Trouble as error:
        return failure(f"{launcher}: {error}", cure)


def srun() -> Finding:
    """Two ranks started by `srun` are one world, on two nodes where there are two."""
    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        return skipped("not inside an allocation: run this with srun or sbatch, too")
    nodes = min(2, int(os.environ.get("SLURM_JOB_NUM_NODES", "1")))
    cure = "mpi4py needs an MPI that speaks PMI-2 (pip install mpich does); srun --mpi=list says what this SLURM speaks"
    try:
        return _world(run(srun_python(_RANK, nodes=nodes), 60), "srun --mpi=pmi2", cure)
    except Trouble as error:
        return failure(f"srun --mpi=pmi2: {error}", cure)


def _world(said: str, launcher: str, cure: str) -> Finding:
    ranks = re.findall(r"<<(\d+)\|(.*?)\|(.*?)>>", said)
    sizes, hosts, libraries = ({rank[i] for rank in ranks} for i in range(3))
    library = ", ".join(sorted(libraries))
    if not ranks:
        return failure(f"{launcher} starts no rank that answers: mpi4py finds no MPI library, or it starts none", cure)
    if len(ranks) == 2 and sizes == {"2"}:
        return ok(f"{launcher}: 2 ranks on {len(hosts)} host(s) are one world; mpi4py runs on {library}")
    return failure(
        f"{launcher} does not fit the MPI that mpi4py runs on ({library}): {len(ranks)} rank(s) in worlds of"
        f" {', '.join(sorted(sizes))}, instead of 2 in one world of 2",
        cure,
    )


_DRIVER = """
import json, ray
ray.init(logging_level="ERROR", log_to_driver=False)
answer = ray.get(ray.remote(lambda: 42).remote(), timeout=30)
print(json.dumps([ray.__version__, answer, ray.cluster_resources()["memory"]]))
"""


def ray() -> Finding:
    """A head on free ports, with a token of its own, takes a driver and answers; nothing of it is left."""
    began = time.monotonic()
    # Connections are made within this host, and only with the token.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | token | quiet
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    cure = "the lines above on the temporary directory, /dev/shm and the network say what it needs"
    try:
        with tempfile.TemporaryDirectory(prefix="ray", dir=base, ignore_cleanup_errors=True) as directory:
            port, agent = _free_ports(2)
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
            options = f"--num-cpus=1 --object-store-memory={80 * 2**20} --include-dashboard=false --disable-usage-stats"
            options = [f"--temp-dir={directory}", f"--dashboard-agent-listen-port={agent}", *options.split()]
            # It ends by itself even if this command is killed.
            bounded = ["timeout", "--kill-after=5", "60", *start, *options]
            with running(bounded, environment) as head:
                _wait_for(port, head)
                environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
                release, answer, offered = probe(_DRIVER, 40, environment)
    except (Trouble, OSError) as error:
        return failure(f"a Ray head does not work: {error}", cure)
    if answer != 42:
        return failure(f"Ray {release} answers {answer} instead of 42", cure)
    found = f"{release}: a head with a token starts on free ports and answers ({time.monotonic() - began:.0f} s)"
    limit = _job_memory()
    if limit is not None and offered > limit:
        return warning(
            f"{found}; it takes {offered / 2**30:.1f} GiB of memory for its own, the job has {limit / 2**30:.1f}",
            "start Ray with --memory, as slurm/ray_train.sh does; SLURM ends a job that takes more than it has",
        )
    return ok(found)


def _job_memory() -> int | None:
    """What this job may use on this node [bytes], if that is known."""
    limits = [memory_limit(), int(os.environ.get("SLURM_MEM_PER_NODE", "0")) * 2**20 or None]
    return min((limit for limit in limits if limit is not None), default=None)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _wait_for(port: int, head: subprocess.Popen[str], patience: float = 30) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise Trouble(last_words("ray start", head.returncode, "\n".join(head.communicate())))
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise Trouble(f"it does not listen on its port after {patience:.0f} s")
