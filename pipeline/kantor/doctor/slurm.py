"""Checks of SLURM: its commands, its accounting, its signals, and the allocation this runs in."""

import os
import re
import shutil

from kantor.doctor.finding import Finding, failure, ok, skipped, warning
from kantor.doctor.processes import Trouble, run

_COMMANDS = ("sinfo", "sbatch", "srun", "squeue", "scancel", "scontrol")
_NO_SLURM = "no SLURM on this machine: the workflow runs its jobs here"


def _not_here() -> Finding | None:
    """Why there is no SLURM to ask, if so."""
    if not any(shutil.which(command) for command in _COMMANDS):
        return skipped(_NO_SLURM)
    try:
        run(["scontrol", "show", "config"])
    except Trouble:
        return skipped("SLURM does not answer")
    return None


def commands() -> Finding:
    """The commands are there, the controller answers, and these are the partitions."""
    if not any(shutil.which(command) for command in _COMMANDS):
        return skipped(_NO_SLURM)
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    if missing:
        return failure(f"not on PATH: {', '.join(missing)}", "load your site's SLURM module: module load slurm")
    try:
        release = run(["sinfo", "--version"]).strip()
        partitions = run(["sinfo", "--noheader", "--format=%P %D node(s), %c CPUs, %m MB, up to %l"]).splitlines()
    except Trouble as error:
        if "configuration source" in str(error):
            return warning(
                "SLURM's commands are here, but no cluster is configured",
                "on a cluster: module load slurm, or set SLURM_CONF; on a machine of your own there is nothing to do",
            )
        return failure(str(error), "the controller does not answer: nothing can be submitted until it does")
    return ok(f"{release}; {'; '.join(line.strip() for line in partitions)}")


def accounting() -> Finding:
    """Snakemake's SLURM executor asks sacct how its jobs are, unless told otherwise, and waits without end for it."""
    if absent := _not_here():
        return absent
    cure = "put slurm-status-command: squeue into the profile: Snakemake would wait for sacct without end"
    if shutil.which("sacct") is None:
        return warning("there is no sacct", cure)
    try:
        run(["sacct", "--noheader", "--allocations", "--starttime=now-1minutes", "--format=JobID"])
    except Trouble as error:
        return warning(f"sacct does not work: {error}", cure)
    return ok("sacct works")


def signals() -> Finding:
    """A job can ask to be told before its time is up, and then has time to save a checkpoint."""
    if absent := _not_here():
        return absent
    ask = ["sbatch", "--test-only", "--time=10", "--signal=B:USR2@120", "--wrap=true"]
    try:
        run(ask)
    except Trouble as error:
        return warning(
            f"sbatch refuses a small job with --signal: {error}",
            "name your account and partition in the profile (slurm_account, slurm_partition)",
        )
    try:
        settings = run(["scontrol", "show", "config"])
    except Trouble as error:
        return warning(f"sbatch takes --signal; scontrol show config fails: {error}", "ask your site for its KillWait")
    wait = re.search(r"^KillWait\s*=\s*(\d+)", settings, flags=re.MULTILINE)
    seconds = int(wait[1]) if wait else 0
    found = f"sbatch takes --signal; between SIGTERM and SIGKILL are {seconds} s (KillWait)"
    if seconds < 10:
        return warning(found, "too short to save a checkpoint: rely on --signal and --max-time")
    return ok(found)


def allocation() -> Finding:
    """What this job was given."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return _not_here() or skipped("not inside one: run this with srun or sbatch, too")
    try:
        asked = run(["squeue", "--noheader", f"--jobs={job}", "--format=%P|%D|%C|%m|%L|%l"]).strip()
    except Trouble as error:
        return failure(f"job {job}: squeue: {error}", "SLURM_JOB_ID is set, but SLURM does not know this job: unset it")
    if not asked:
        return failure(f"SLURM does not know job {job}", "SLURM_JOB_ID is left over from an ended job: unset it")
    partition, nodes, cpus, memory, left, limit = asked.splitlines()[0].split("|")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "0")
    found = f"job {job} in {partition}: {nodes} node(s), {cpus} CPUs, {memory} per node, {gpus} GPU(s) here"
    found = f"{found}, {left} of {limit} left"
    if memory in ("0", ""):
        return warning(found, "it has no memory limit of its own: ask for memory, mem_mb of the rule or --mem")
    return ok(found)
