"""What SLURM says of the job that this process is in."""

import os
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime

from kantor.machine.progress import log

# Part of the time left, and seconds at most, that are kept for ending: a checkpoint, Ray, the files.
_MARGIN, _LONGEST_MARGIN = 0.1, 120.0


def deadline(environment: Mapping[str, str] = os.environ) -> float | None:
    """When to stop so that the job ends before SLURM ends it [seconds since the epoch]; None without a limit."""
    end = end_time(environment)
    if end is None:
        return None
    return end - min(_LONGEST_MARGIN, _MARGIN * max(end - time.time(), 0.0))


def end_time(environment: Mapping[str, str] = os.environ) -> float | None:
    """When the job's time limit is reached [seconds since the epoch]; None outside of a job or without a limit."""
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return None
    if "SLURM_JOB_END_TIME" in environment:  # since SLURM 23.02
        return float(environment["SLURM_JOB_END_TIME"])
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
    try:
        said = subprocess.run(
            command,
            env={**environment, "SLURM_TIME_FORMAT": "standard"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        return datetime.fromisoformat(said).timestamp() if said not in ("NONE", "N/A") else None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning(f"the end of SLURM job {job} is not known, so nothing stops before it: {error}")
        return None


def hosts(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The nodes of this SLURM step, in the order of their tasks."""
    command = ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def memory(environment: Mapping[str, str] = os.environ) -> int:
    """Bytes that the job may use on this node; those of the machine where there is no limit."""
    per_node = int(environment.get("SLURM_MEM_PER_NODE", 0))
    per_cpu = int(environment.get("SLURM_MEM_PER_CPU", 0)) * int(environment.get("SLURM_CPUS_ON_NODE", 1))
    return (per_node or per_cpu) << 20 or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
