"""Which backend computes an operation: chosen by device, or as the caller says; never changed in silence."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

# Where each backend of an operation lives, relative to the operation's package.
_MODULES = {"torch": "tiled", "cpu": "cpu", "triton": "triton"}
_NEEDS = {"torch": "torch", "cpu": "numba", "triton": "triton"}


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


@cache
def available(operation: str, backend: str) -> bool:
    """Whether this operation has that backend and its dependency is installed; imports neither."""
    if backend == "reference":
        return True
    return (
        importlib.util.find_spec(f"kantor_kernels.{operation}.{_MODULES[backend]}") is not None
        and importlib.util.find_spec(_NEEDS[backend]) is not None
    )


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
    return backend, "asked for"


@cache
def implementation(operation: str, backend: str) -> ModuleType:
    """The module of a backend, imported at first use."""
    return importlib.import_module(f"kantor_kernels.{operation}.{_MODULES[backend]}")
