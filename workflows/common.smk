# The configuration, validated once, and what each stage's code is.
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kantor.config
import kantor.errors
import kantor.machine.files

# Rules find `kantor` and `mpiexec` where this Snakemake is installed, without an activated environment.
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]
)


def read_configuration(options):
    """The file of --configfile, or config/config.yaml, with the keys of --config in place of its own.

    Snakemake would mix the two files, and take the last of equal keys without a word.
    """
    if len(options.configfiles) > 1:
        files = " ".join(map(str, options.configfiles))
        raise WorkflowError(
            f"one study is one file, and --configfile names several: {files}\n  cure: name one"
        )
    path = [*options.configfiles, Path("config", "config.yaml")][0]
    changes = {key: value for key, value in options.config.items() if key != "pathvars"}
    try:
        return kantor.config.load(path, changes)
    except kantor.errors.ConfigError as error:
        raise WorkflowError(str(error)) from None


CONFIG = read_configuration(workflow.config_settings)

CODE = json.loads(subprocess.check_output(["kantor", "fingerprint"], text=True))


def manifest(wildcards):
    """The manifest of the dataset that a training uses."""
    return (
        f"<results>/data/{CONFIG.trainings[wildcards.training].dataset}/manifest.json"
    )


def ranks(wildcards, threads, resources):
    """How to start the MPI ranks of a job here; without a launcher it runs on one rank."""
    mpi = str(resources.get("mpi", ""))
    if not mpi or shutil.which(mpi.split()[0]) is None:
        return ""
    # Inside a job of Snakemake's SLURM executor srun finds no counts in the environment.
    counts = f"-N {resources.nodes} -c {threads} " if mpi.startswith("srun") else ""
    return f"{mpi} {counts}-n {resources.tasks}"


def expected_ranks(wildcards, threads, resources):
    started = ranks(wildcards, threads, resources)
    return f"--expect-ranks {resources.tasks}" if started else ""


def page_of(name):
    """The directory of a target's report."""
    return "report" if name == "run" else f"report-{name}"


PAGES = {page_of(name): target for name, target in CONFIG.targets.items()}


wildcard_constraints:
    dataset="[^/]+",
    training="[^/]+",
    seed=r"\d+",
    page="|".join(map(re.escape, PAGES)),


def target(wildcards):
    """What a report is about."""
    return PAGES[wildcards.page]


def models(wildcards):
    """(training, seed) of every model on a report."""
    wanted = target(wildcards)
    return [(training, seed) for training in wanted.trainings for seed in wanted.seeds]
