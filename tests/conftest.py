"""A copy of the workflow with a configuration that takes seconds, in which files can be changed."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml

# Test processes share the cores: a thread that waits by spinning would take a time slice from the one it waits for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Ray's workers would wait for whatever else this machine does.
os.environ.setdefault("RAY_worker_niceness", "0")

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
QUICK = {
    "title": "quick",
    "datasets": {
        "dis": {"source": {"kind": "dis", "events": 2000, "block": 1000}, "shard_rows": 1000},
        "other": {"source": {"kind": "dis", "events": 2000, "block": 1000, "seed": 2}},
    },
    "trainings": {
        name: {
            "dataset": dataset,
            "transforms": {"pz": [{"kind": "log_distance", "edge": 50.0}, {"kind": "standardise"}]},
            "generator": {"latent": 4, "width": 16, "depth": 2},
            "critic": {"width": 16, "depth": 2},
            "objective": {"kind": kind},
            "batch": 64,
            "steps": 20,
            "evaluate_rows": 100,
        }
        for name, dataset, kind in [("wgan_gp", "dis", "wgan_gp"), ("cramer", "other", "cramer")]
    },
    "validation": {"rows": 200, "splits": 5, "replicas": 20, "bins": 20},
    "targets": {
        "run": {"trainings": ["wgan_gp", "cramer"]},
        "physics": {"trainings": ["wgan_gp"], "seeds": [1, 2]},
        "toys": {"title": "toys", "trainings": ["cramer"]},
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, as a process takes whole files (`--dist loadfile`) and none should begin a long one last."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: ("slurm" not in item.path.parts, item.path not in slow))


@pytest.fixture(autouse=True)
def as_if_alone() -> Iterator[None]:
    """Whatever ran before: a training, for one, leaves one thread and another place in the random numbers."""
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Workflow:
    """The workflow in a directory of its own, with its own copy of the code."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        # What Numba compiles is kept beside the kernels, and not compiled again for every copy.
        (directory / "kernels").symlink_to(ROOT / "kernels")
        for name in ("Snakefile", "workflows", "profiles", "slurm", "pipeline"):
            source, target = ROOT / name, directory / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        self.configure()

    def configure(self, **changes: object) -> None:
        """Write the quick configuration with `a.b.c` keys (written a__b__c) changed."""
        config = json.loads(json.dumps(QUICK))
        for path, value in changes.items():
            *parents, last = path.split("__")
            section = config
            for name in parents:
                section = section.setdefault(name, {})
            section[last] = value
        folder = self.directory / "config"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.directory / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def snakemake(
        self, *arguments: str, timeout: float = 600, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run snakemake with `more` in its environment."""
        code = os.pathsep.join(str(self.directory / root) for root in ("pipeline", "kernels"))
        environment = {**os.environ, "PYTHONPATH": code, **(more or {})}
        return subprocess.run(
            [str(BIN / "snakemake"), *arguments],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def would_run(self, *targets: str) -> Counter[str]:
        """Which jobs a dry run announces, as (rule or rule:training) -> how many."""
        done = self.snakemake("--dry-run", "--quiet", "host", "--", *targets)
        assert done.returncode == 0, done.stderr
        jobs: Counter[str] = Counter()
        rule = ""
        for line in (done.stdout + done.stderr).splitlines():
            if line.startswith(("rule ", "localrule ")):
                rule = line.split()[1].rstrip(":")
                if rule == "all" or rule.startswith("report-"):
                    rule = ""
                elif rule == "gather":
                    jobs[rule] += 1
            elif rule and line.strip().startswith("wildcards:") and rule != "gather":
                values = dict(part.strip().split("=") for part in line.partition(":")[2].split(","))
                name = next(values[key] for key in ("training", "dataset", "sample") if key in values)
                jobs[f"{rule}:{name}"] += 1
        return jobs


@pytest.fixture(scope="session")
def new_workflow() -> type[Workflow]:
    """Makes a workflow in a directory; conftest files cannot be imported."""
    return Workflow
