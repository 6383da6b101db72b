"""`pip install ./kernels` alone: what it declares is what it imports, and it works without the pipeline."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
KERNELS = tomllib.loads((ROOT / "kernels" / "pyproject.toml").read_text())["project"]
PIPELINE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Numba pins its own llvmlite; PyTorch's CUDA builds bring Triton, and without it another backend runs.
BROUGHT_BY = {"llvmlite": "numba", "triton": "torch"}


def test_every_import_is_declared() -> None:
    imported = set()
    for file in (ROOT / "kernels" / "kantor_kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file} imports relatively"
                imported.add((node.module or "").partition(".")[0])
    foreign = {BROUGHT_BY.get(name, name) for name in imported - sys.stdlib_module_names - {"kantor_kernels"}}
    assert foreign == {Requirement(line).name for line in KERNELS["dependencies"]}


def test_both_distributions_say_the_same() -> None:
    """The pipeline's wheel carries this package too: one version, one set of ranges, one licence."""
    assert KERNELS["version"] == PIPELINE["version"]
    assert KERNELS["requires-python"] == PIPELINE["requires-python"]
    assert set(KERNELS["dependencies"]) <= set(PIPELINE["dependencies"])
    licence = ROOT / "LICENSE"
    assert not licence.exists() or licence.read_text() == (ROOT / "kernels" / "LICENSE").read_text()


PROGRAM = """
import importlib, importlib.util, pkgutil
import torch
from torch import nn
import kantor_kernels
from kantor_kernels import energy_distance, mlp_critic_step

for name in ("kantor", "ray", "h5py", "pydantic", "scipy", "pytest"):
    assert importlib.util.find_spec(name) is None, name
for module in pkgutil.walk_packages(kantor_kernels.__path__, "kantor_kernels."):
    if "triton" not in module.name:
        importlib.import_module(module.name)
x, y = torch.randn(40, 3, requires_grad=True), torch.randn(30, 3)
energy_distance(x, y).backward()
assert x.grad.isfinite().all()
critic = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
assert mlp_critic_step(critic, x[:30], y).loss.isfinite()
print(kantor_kernels.__file__, kantor_kernels.backends.installed("numba"))
"""


@pytest.mark.slow
def test_it_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """With links to what it declares, and to what that needs, so that nothing is downloaded."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, ROOT / "kernels"], check=True)
    (metadata,) = site.glob("kantor_kernels-*.dist-info")
    installed = Distribution.at(metadata)
    assert installed.metadata["License-Expression"] == "BSD-3-Clause"
    assert (site / "kantor_kernels" / "py.typed").exists()
    for needed in closure(installed):
        for top in {file.parts[0] for file in needed.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(str(needed.locate_file(top)))
    done = subprocess.run(
        [environment / "bin" / "python", "-I", "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "kantor_kernels" / "__init__.py"), "True"]


def closure(root: Distribution) -> list[Distribution]:
    """The distributions that one needs, and those that they need."""
    found: dict[str, Distribution] = {}
    waiting = [root]
    while waiting:
        for line in waiting.pop().requires or []:
            requirement = Requirement(line)
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                found[name] = distribution(name)
                waiting.append(found[name])
    return list(found.values())
