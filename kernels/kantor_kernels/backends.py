"""Which backend computes an operation: chosen by what is asked of it and where, or as the caller says.

Every operation registers its backends once, in the order in which "auto" tries them. A backend says for itself why it
cannot compute a problem; none is ever changed in silence, and one that an operation does not have is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Protocol

import torch

from kantor_kernels.arguments import given


class Problem(Protocol):
    """What a call asks for; an operation's own problems say more."""

    @property
    def device(self) -> torch.device: ...


class Backend(Protocol):
    """One way to compute an operation."""

    @property
    def name(self) -> str: ...

    def why_not(self, problem: Any, /) -> str | None:
        """Why it cannot compute this problem here; None where it can."""
        ...

    def why_not_unasked(self, problem: Any, /) -> str | None:
        """Why "auto" leaves it to another where it could; None where it does not."""
        ...

    def run(self, function: str, /, *arguments: Any) -> Any:
        """The result of one of the operation's functions."""
        ...


@dataclass(frozen=True)
class InModule:
    """A backend whose functions are those of a module.

    Attributes:
        name: what callers say.
        module: the module, or its full name: then it is imported when a function is first run.
        package: what has to be installed beside PyTorch.
        devices: types of device that it runs on; empty: any.
        limits: what else keeps it from a problem, or None.
        unasked: what keeps "auto" from it, or None.
        autocast: whether its functions run under the caller's autocast, which would round their matrix products to half
            precision.
    """

    name: str
    module: str | ModuleType
    package: str | None = None
    devices: tuple[str, ...] = ()
    limits: Callable[[Any], str | None] | None = None
    unasked: Callable[[Any], str | None] | None = None
    autocast: bool = False

    def why_not(self, problem: Any, /) -> str | None:
        # First what no installation would change.
        if self.devices and problem.device.type not in self.devices and not self._interpreted:
            return f"it cannot run on {problem.device.type} tensors"
        beyond = None if self.limits is None else self.limits(problem)
        if beyond is None and self.package is not None and not installed(self.package):
            return f"{self.package} is not installed"
        return beyond

    def why_not_unasked(self, problem: Any, /) -> str | None:
        if self._interpreted and problem.device.type not in self.devices:
            return "Triton's interpreter is for tests"
        return None if self.unasked is None else self.unasked(problem)

    @property
    def _interpreted(self) -> bool:
        return self.package == "triton" and os.environ.get("TRITON_INTERPRET") == "1"

    def run(self, function: str, /, *arguments: Any) -> Any:
        module = loaded(self.module) if isinstance(self.module, str) else self.module
        casting = [] if self.autocast else [device for device in _AUTOCAST if torch.is_autocast_enabled(device)]
        if not casting:
            return getattr(module, function)(*arguments)
        with ExitStack() as off:
            for device in casting:
                off.enter_context(torch.autocast(device, enabled=False))
            return getattr(module, function)(*arguments)


@dataclass(frozen=True)
class Choice:
    """Which backend a call would take.

    Attributes:
        backend: the backend that runs.
        reason: why this one.
    """

    backend: str
    reason: str


@dataclass(frozen=True)
class Explanation(Choice):
    """What a call over all pairs would do.

    Attributes:
        passes: full passes over pairs, value and first gradient together.
        pairs: pairs evaluated over all passes.
        peak_bytes: estimated memory beyond the arguments.
    """

    passes: int
    pairs: int
    peak_bytes: int


# Devices that PyTorch has autocast for, and that a backend may run on.
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
_REGISTRY: dict[str, tuple[Backend, ...]] = {}
# Plain constants, since torch.compile traces through the choice; looking for a package does not import it.
_INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("numba", "triton")}


def register(operation: str, *backends: Backend) -> str:
    """Declare an operation's backends, in the order in which "auto" tries them; gives the operation's name back."""
    _REGISTRY[operation] = backends
    return operation


def backends_of(operation: str) -> tuple[Backend, ...]:
    """The backends of an operation, in the order in which "auto" tries them."""
    return _REGISTRY[operation]


def operations() -> set[str]:
    """The names of all operations of the package."""
    return set(_REGISTRY)


def choose(operation: str, backend: str, problem: Problem) -> tuple[Backend, str]:
    """(backend, reason) for a problem.

    Args:
        operation: a registered one.
        backend: a name, or "auto" for the first that can compute the problem.
        problem: what is asked for.

    Raises:
        TypeError: the backend is no name.
        ValueError: the operation has no such backend, or that one cannot compute this problem here.
    """
    if not isinstance(backend, str):
        raise TypeError(f'backend must be a name, got {given(backend)}; pass "auto", say')
    having = _REGISTRY[operation]
    if backend == "auto":
        passed = []
        for each in having:
            missing = each.why_not(problem) or each.why_not_unasked(problem)
            if missing is None:
                return each, "; ".join(passed) or f"the first choice of {operation}"
            passed.append(f"{each.name}: {missing}")
        raise ValueError(f"{operation} cannot run: {'; '.join(passed)}")
    for each in having:
        if each.name == backend:
            missing = each.why_not(problem)
            if missing is not None:
                raise ValueError(f"backend {backend!r} of {operation} cannot run: {missing}")
            return each, "asked for"
    names = ", ".join(("auto", *(each.name for each in having)))
    raise ValueError(f"{operation} has no backend {backend!r}; it has: {names}")


def possible(operation: str, problem: Problem) -> list[str]:
    """The backends that can compute a problem here, as "auto" would try them, without the definition."""
    return [each.name for each in _REGISTRY[operation] if each.name != "reference" and each.why_not(problem) is None]


def run(operation: str, backend: str, function: str, *arguments: Any) -> Any:
    """The result of a function of a backend that has been chosen."""
    return _named(operation, backend).run(function, *arguments)


def installed(package: str) -> bool:
    """Whether Numba or Triton is there."""
    return _INSTALLED[package]


def why_not_compile(device: torch.device) -> str | None:
    """Why `torch.compile` cannot run here; None where it can."""
    if device.type == "cpu" and not _finds_compiler(os.environ.get("PATH")):
        return "torch.compile needs a C++ compiler here"
    if device.type == "cuda" and not installed("triton"):
        return "torch.compile needs Triton here"
    return None


@cache
def _finds_compiler(path: str | None) -> bool:
    # Searched once: every critic step asks.
    return any(shutil.which(name, path=path) for name in ("c++", "g++", "clang++"))


@cache
def loaded(module: str) -> ModuleType:
    """The module of a backend, imported at first use."""
    return importlib.import_module(module)


@cache
def _named(operation: str, backend: str) -> Backend:
    return next(each for each in _REGISTRY[operation] if each.name == backend)
