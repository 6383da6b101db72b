"""The rules of the house that a machine can check."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()


@pytest.mark.parametrize("root", ["kernels", "pipeline", "tests", "workflows", "slurm"])
def test_source_roots_are_no_packages(root: str) -> None:
    """A package named `kernels` would break whoever imports Hugging Face's package of that name."""
    assert not (ROOT / root / "__init__.py").exists()


def test_no_test_folder_is_a_package() -> None:
    assert not [name for name in TRACKED if name.startswith("tests/") and name.endswith("__init__.py")]


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "README.md", "pipeline", "kernels", "workflows", "slurm", "tests", "Snakefile"]
)
def test_what_has_to_be_at_the_top_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_the_snakefile_is_short() -> None:
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 40


KERNELS = ROOT / "kernels" / "kantor_kernels"
# Every folder of the kernels is an operation, but for the one that measures them.
OPERATIONS = sorted(path.parent.name for path in KERNELS.glob("*/__init__.py") if path.parent.name != "benchmark")


def test_there_are_operations() -> None:
    assert {"critic_step", "gradient_penalty", "pairwise", "permutation", "sliced"} <= set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["README.md", "reference.py", "functional.py"])
def test_every_operation_has_the_same_files(operation: str, name: str) -> None:
    assert (KERNELS / operation / name).exists()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_tested_under_its_name(operation: str) -> None:
    assert list((ROOT / "tests" / "kernels" / operation).glob("test_*.py"))


@pytest.mark.parametrize("package", ["kantor_kernels", "kantor", "kantor.cli"])
def test_importing_does_nothing_heavy(package: str) -> None:
    """Login nodes have no GPU, Triton, MPI or Ray, and a command that only prints help must not wait for torch."""
    heavy = {"triton", "mpi4py", "ray", "matplotlib", "sklearn", "numba"} | (
        {"torch"} if package != "kantor_kernels" else set()
    )
    code = f"import sys, {package}; print(*sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not loaded


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    pattern = re.compile(r"(?<![\w.])/(home|root|Users|work)/\w")
    found = [
        f"{name}: {line.strip()}"
        for name in TRACKED
        if (ROOT / name).suffix in {".py", ".md", ".toml", ".yaml", ".smk", ".sh", ".rst", ".html", ".txt", ""}
        and name != "tests/test_layout.py"
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert not found


def test_the_readme_s_map_is_true() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^(?:├──|└──) (\S+?)/? ", readme, flags=re.MULTILINE)
    assert rows, "the README has no folder map"
    assert not [name for name in rows if not (ROOT / name).exists()]
