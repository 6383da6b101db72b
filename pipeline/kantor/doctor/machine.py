"""Checks of the software, the processors and the memory of this machine."""

import os
import platform
import shutil
import socket
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kantor.doctor.finding import Finding, failure, ok, skipped, warning
from kantor.doctor.processes import Trouble, probe, run

# Named in the order in which they matter; the others are named where they are wrong.
_SHOWN = ("torch", "ray", "mpi4py", "h5py", "snakemake", "numba")
# The longest path that an AF_UNIX socket can have, and what Ray puts below its directory.
_SOCKET_PATH = 107
_RAY_SOCKET = "ray/session_2000-01-01_00-00-00_000000_1234567/sockets/plasma_store"
_SHM_NEEDED = 200 * 2**20


def python() -> Finding:
    allowed = SpecifierSet(metadata("kantor")["Requires-Python"])
    found = f"{platform.python_version()}, {sys.executable}"
    if platform.python_version() in allowed:
        return ok(found)
    return failure(f"{found}; Kantor needs {allowed}", "install Kantor with another Python: make PYTHON=python3.13")


def packages() -> Finding:
    """The installed versions against the ranges that Kantor was installed with, and whether they can be imported."""
    needed = [Requirement(line) for line in requires("kantor") or []]
    wrong, shown = [], {}
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            shown[requirement.name] = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(shown[requirement.name], prereleases=True):
            wrong.append(f"{requirement.name} {shown[requirement.name]} is not {requirement.specifier}")
    cure = "install Kantor again, into an environment of its own: make clean; make run"
    if wrong:
        return failure("; ".join(wrong), cure)
    try:
        probe("import h5py, numba, scipy, sklearn, hist, yaml, jinja2; print('{}')")
    except Trouble as error:
        return failure(f"they are installed, and fail to be imported: {error}", cure)
    return ok(", ".join(f"{name} {shown[name]}" for name in _SHOWN))


_TORCH = """
import json, tempfile, torch, torch.distributed as dist
with tempfile.TemporaryDirectory() as place:
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=0, world_size=1)
    dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()
print(json.dumps([torch.__version__, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]))
"""


def pytorch() -> Finding:
    """It computes here, and its processes can talk to each other with gloo."""
    try:
        release, threads, instructions = probe(_TORCH)
    except Trouble as error:
        return failure(
            f"PyTorch does not work here: {error}",
            "SIGILL: its build does not fit these processors; gloo: set GLOO_SOCKET_IFNAME to a network interface",
        )
    cpus = len(os.sched_getaffinity(0))
    found = f"{release}: {threads} thread(s) on {cpus} CPU(s), {instructions}, gloo works"
    if threads > cpus:
        return warning(found, f"more threads than CPUs slow it down: OMP_NUM_THREADS={cpus}")
    if instructions == "DEFAULT":
        return warning(found, "these processors lack AVX2: expect several times the times in the README")
    return ok(found)


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None or any(Path("/dev").glob("nvidia[0-9]*"))


_NO_GPU = "no NVIDIA GPU here: trainings run on the CPUs"
_GPU = """
import json, tempfile, torch, torch.distributed as dist
facts = {"torch": torch.__version__, "built": torch.version.cuda, "gpus": [], "nccl": None}
if torch.cuda.is_available():
    every = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    facts["gpus"] = [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor})" for gpu in every]
    if dist.is_nccl_available():
        with tempfile.TemporaryDirectory() as place:
            dist.init_process_group("nccl", init_method=f"file://{place}/meet", rank=0, world_size=1)
            dist.all_reduce(torch.ones(1, device="cuda"))
            torch.cuda.synchronize()
            dist.destroy_process_group()
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
print(json.dumps(facts))
"""


def gpu() -> Finding:
    """The CUDA devices that PyTorch sees, the driver, and a sum over NCCL (of one rank)."""
    if not _has_gpu():
        return skipped(_NO_GPU)
    driver = "unknown"
    if shutil.which("nvidia-smi") is not None:
        try:
            listed = run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
        except Trouble as error:
            return failure(f"nvidia-smi: {error}", "the driver does not answer on this node: tell its administrators")
        driver = listed.split()[0] if listed.split() else "unknown"
    try:
        facts = probe(_GPU, 60)
    except Trouble as error:
        return failure(
            f"driver {driver}: {error}", "NCCL_DEBUG=INFO says more; NCCL_SOCKET_IFNAME names the network interface"
        )
    if facts["built"] is None:
        return failure(
            f"there is a GPU (driver {driver}), but torch {facts['torch']} is built for CPUs",
            "install a CUDA build of torch (pytorch.org says how)",
        )
    if not facts["gpus"]:
        return failure(
            f"torch {facts['torch']} for CUDA {facts['built']} cannot use the GPU (driver {driver})",
            "install a torch for an older CUDA, or a newer driver; in a job, ask for a GPU: --gres=gpu:1",
        )
    found = f"{', '.join(facts['gpus'])}; driver {driver}, CUDA {facts['built']}, NCCL {facts['nccl']}"
    if facts["nccl"] is None:
        return failure(found, "this build of torch has no NCCL, which trainings on GPUs use: install another")
    return ok(found)


_TRITON = """
import json, torch, triton
from kantor_kernels import energy_distance
x, y = torch.randn(2, 500, 3, device="cuda")
fused = energy_distance(x, y, backend="triton").item()
plain = energy_distance(x.double().cpu(), y.double().cpu(), backend="reference").item()
print(json.dumps([triton.__version__, fused, plain]))
"""


def triton() -> Finding:
    """A kernel compiled, run and compared where there is a GPU; else whether Triton is there."""
    if not _has_gpu():
        try:
            return ok(f"{probe('import json, triton; print(json.dumps(triton.__version__))')}, not used without a GPU")
        except Trouble:
            return skipped("not installed, and not needed without a GPU")
    try:
        release, fused, plain = probe(_TRITON, 60)
    except Trouble as error:
        return failure(str(error), "Triton needs a C compiler (gcc) at run time, and a ~/.triton that can be written")
    if abs(fused - plain) > 1e-4 * abs(plain):
        return failure(f"{release}: a kernel computes {fused:.6g} instead of {plain:.6g}", "run the tests: make test")
    return ok(f"{release}: a kernel is compiled, runs, and is right")


def memory() -> Finding:
    """What may be used: the machine's memory, or the limit of the job's control group."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit()
    if limit is None or limit >= total:
        return ok(f"{_gib(total)} in this machine, no limit of a control group")
    found = f"{_gib(limit)} by the control group, of {_gib(total)} in this machine"
    if limit < 2 * 2**30:
        return warning(found, "Ray alone takes 1 GiB: ask for more (mem_mb of the rule, --mem of SLURM)")
    return ok(found)


def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The least memory limit of this process's control groups (version 1 or 2) in bytes, if there is one."""
    limits = []
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        leaf = top / path.lstrip("/")
        # Inside a container the path may be the host's: then only the top is there.
        for directory in [leaf, *leaf.parents]:
            if directory.is_relative_to(top) and (directory / name).is_file():
                value = (directory / name).read_text(encoding="utf-8").strip()
                # Version 1 says "none" with a number near 2^63.
                if value.isdigit() and int(value) < 2**60:
                    limits.append(int(value))
    return min(limits, default=None)


def shared_memory() -> Finding:
    """Where Ray keeps objects."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return failure(f"{place} is not there", "mount a tmpfs on it: Ray keeps its objects there")
    usage = shutil.disk_usage(place)
    found = f"{_gib(usage.free)} of {_gib(usage.total)} are free"
    if usage.free < _SHM_NEEDED:
        return warning(found, "Ray then keeps its objects on disk; in a container: --shm-size=1g")
    return ok(found)


def temporary_directory() -> Finding:
    """Ray's sockets live below it, and the path of a socket is short."""
    base = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    cure = "export RAY_TMPDIR=/tmp, or another short directory on a local disk"
    try:
        with tempfile.NamedTemporaryFile(dir=base):
            pass
    except OSError as error:
        return failure(f"{base}: {error.strerror}", cure)
    length = len(os.fsencode(base / _RAY_SOCKET))
    if length > _SOCKET_PATH:
        return failure(f"{base} is too long: Ray's sockets would have {length} bytes of {_SOCKET_PATH}", cure)
    return ok(f"{base}: Ray's sockets have {length} of the {_SOCKET_PATH} bytes that they may have")


def network() -> Finding:
    """This host's own name leads to an address on which a port can be opened and reached."""
    host = socket.gethostname()
    cure = "name this host in /etc/hosts; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose a network interface"
    try:
        address = socket.gethostbyname(host)
        with socket.create_server((address, 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection((address, port), timeout=5):
                pass
    except OSError as error:
        return failure(f"{host}: no port can be opened and reached: {error}", cure)
    found = f"{host} is {address}, ports can be opened and reached"
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if address.startswith("127.") and nodes > 1:
        return warning(f"{found}, but only from this host", cure)
    return ok(found)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
