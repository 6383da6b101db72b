"""Which backend computes an operation: chosen by device, or as the caller says; never changed in silence."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

# The module of each backend, relative to the operation's package, and what it needs beside PyTorch.
_MODULES = {"torch": "tiled", "compiled": "compiled", "cpu": "cpu", "triton": "triton"}
_NEEDS = {"cpu": "numba", "triton": "triton"}
_OPERATIONS = {
    "pairwise": ("torch", "cpu", "triton"),
    "sliced": ("torch", "cpu"),
    "permutation": ("torch",),
    "gradient_penalty": ("torch",),
    "critic_step": ("torch", "compiled", "cpu", "triton"),
}
# A plain constant, since torch.compile traces through the choice; looking for a package does not import it.
_INSTALLED = {name: importlib.util.find_spec(name) is not None for name in _NEEDS.values()}


@dataclass(frozen=True)
class Explanation:
    """What a call would do.

    Attributes:
        backend: the backend that runs.
        reason: why this one.
        passes: full passes over pairs, value and first gradient together.
        pairs: pairs evaluated over all passes.
        peak_bytes: estimated memory beyond the arguments.
    """

    backend: str
    reason: str
    passes: int
    pairs: int
    peak_bytes: int


def available(operation: str, backend: str) -> bool:
    """Whether this operation has that backend and its dependency is installed."""
    if backend == "reference":
        return True
    return backend in _OPERATIONS[operation] and (backend not in _NEEDS or _INSTALLED[_NEEDS[backend]])


def choose(operation: str, backend: str, device: torch.device) -> tuple[str, str]:
    """(backend, reason) for a call on `device`.

    Raises:
        ValueError: an unknown backend, or one that cannot run here; "auto" never raises.
    """
    if backend == "auto":
        preferred = {"cuda": "triton", "cpu": "cpu"}.get(device.type)
        if preferred is not None and available(operation, preferred):
            return preferred, f"the fastest backend of {operation} for {device.type}"
        return "torch", f"{operation} has no specialised backend installed for {device.type}"
    if backend not in ("reference", *_MODULES):
        known = ", ".join(("auto", "reference", *_MODULES))
        raise ValueError(f"unknown backend {backend!r}; known: {known}")
    if not available(operation, backend):
        raise ValueError(f"backend {backend!r} of {operation} cannot run: it is not installed")
    if backend == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' cannot run on {device.type} tensors")
    if backend == "compiled" and (missing := why_not_compiled(device)):
        raise ValueError(f"backend 'compiled' cannot run: {missing}")
    if backend == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"backend 'triton' cannot run on {device.type} tensors (TRITON_INTERPRET=1 is for tests)")
    return backend, "asked for"


def why_not_compiled(device: torch.device) -> str:
    """Why `torch.compile` cannot run here; empty where it can."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return "torch.compile needs a C++ compiler here"
    if device.type == "cuda" and not _INSTALLED["triton"]:
        return "torch.compile needs Triton here"
    return ""


@cache
def implementation(operation: str, backend: str) -> ModuleType:
    """The module of a backend, imported at first use."""
    return importlib.import_module(f"kantor_kernels.{operation}.{_MODULES[backend]}")
