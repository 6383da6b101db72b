"""Checksums of the code behind each stage, so that the workflow reruns a stage when its code changes.

A stage is the modules it imports, followed through both packages; an operation of kantor_kernels loads its backends by
name, so all modules of its folder count. What is compared is their syntax without comments, docstrings and layout.
Configuration and errors do not count: a default that changes shows in the stage's settings.
"""

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

STAGES = {
    "stage": "kantor.data.staging",
    "train": "kantor.launch.training",
    "validate": "kantor.validation.compare",
    "generate": "kantor.generation.generate",
    "report": "kantor.report.page",
    "benchmark": "kantor.benchmark.scaling",
    "benchmark_page": "kantor.report.benchmark",
}
_PACKAGES = ("kantor", "kantor_kernels")
_NEUTRAL = tuple(f"kantor.{name}" for name in ("config", "errors", "machine.progress", "results"))


def fingerprint(stage: str) -> str:
    """The checksum of a stage's code."""
    digest = hashlib.sha256()
    for module in sorted(_reached(STAGES[stage])):
        digest.update(f"{module}\n{_syntax(module)}\n".encode())
        for template in sorted(_source(module).parent.glob("*.html")):
            digest.update(template.read_bytes())
    return digest.hexdigest()[:16]


def _reached(start: str) -> set[str]:
    reached, waiting = set[str](), [start]
    while waiting:
        module = waiting.pop()
        if module not in reached and not _is_neutral(module):
            reached.add(module)
            waiting += (*_imports(module), *_backends(module))
    return reached


def _is_neutral(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _NEUTRAL)


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of ours that `module` imports anywhere, inside functions too."""
    package = module if _source(module).name == "__init__.py" else module.rpartition(".")[0]
    names = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [parent, node.module]))
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] in _PACKAGES and _is_module(name))


def _backends(module: str) -> list[str]:
    """The modules beside one of an operation."""
    folder = ".".join(module.split(".")[:2])
    if not folder.startswith("kantor_kernels.") or _source(folder).name != "__init__.py":
        return []
    return [f"{folder}.{path.stem}" for path in _source(folder).parent.glob("*.py") if path.stem != "__init__"]


@cache
def _syntax(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant(None)
    return ast.dump(tree)


def _tree(module: str) -> ast.Module:
    return ast.parse(_source(module).read_bytes())


def _source(module: str) -> Path:
    path = _root(module.split(".")[0]).parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_module(name: str) -> bool:
    return _source(name).is_file()


@cache
def _root(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
