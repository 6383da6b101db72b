"""Everything a training is made of at one moment, and how it survives: checkpoints, whole and locked.

Batches and noise are functions of the counters (see `feed`), so no state of a random generator has to be kept.
"""

import contextlib
import fcntl
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn, optim

from kantor.config import Training
from kantor.errors import InputError
from kantor.losses import Objective, make_terms
from kantor.machine.files import explained
from kantor.machine.progress import log
from kantor.models.networks.base import Critic, Generator, Joint
from kantor.models.networks.factory import make_critic, make_generator
from kantor.models.randomness import stream
from kantor.models.tensors import read_tensors, write_tensors
from kantor.training.optimisers import make_optimiser


@dataclass
class Best:
    """The latest of the generators within one standard error of the nearest to the validation split."""

    step: int
    weights: dict[str, Tensor]


@dataclass
class State:
    """Networks, optimisers and counters."""

    generator: Generator
    critic: Critic
    averaged: Generator  # exponential moving average of the generator
    terms: nn.ModuleList  # of the generator's loss
    generator_optimiser: optim.Optimizer
    critic_optimiser: optim.Optimizer
    step: int = 0  # generator updates done
    update: int = 0  # batches used: the cursor in the data
    seconds: float = 0.0
    attempts: int = 1
    stale: int = 0  # evaluations since the last improvement beyond its error
    milestone: tuple[float, float] = (math.inf, 0.0)  # energy distance and its error of that improvement
    finished: bool = False  # nothing has improved for long enough
    least: tuple[float, float] = (math.inf, 0.0)  # the least energy distance so far and its error
    best: Best | None = field(default=None)

    @classmethod
    def fresh(
        cls,
        settings: Training,
        *,
        features: int,
        critic_features: int,
        conditions: Sequence[str],
        objective: Objective,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> "State":
        """Networks initialised as the seed says, the same on every rank."""
        with torch.random.fork_rng():
            torch.manual_seed(stream(seed, "initialise", 0).initial_seed())
            generator = make_generator(settings.generator, len(conditions), features)
            critic = Joint()
            if objective.outputs:
                critic = make_critic(
                    settings.critic,
                    len(conditions),
                    critic_features * settings.critic.pack,
                    objective.outputs,
                    output_bias=objective.output_bias,
                )
            terms = make_terms(settings.terms, conditions, critic_features)
        dtype = getattr(torch, settings.precision)
        for module in (generator, critic, terms):
            module.to(device, dtype)
        return cls(
            generator=generator,
            critic=critic,
            # In evaluation mode: spectral norms are those of the copied vectors, not of how often it has generated.
            averaged=deepcopy(generator).requires_grad_(False).eval(),
            terms=terms,
            generator_optimiser=make_optimiser(generator, settings.generator_optimiser),
            critic_optimiser=make_optimiser(critic, settings.critic_optimiser),
        )

    def is_best(self, distance: float, error: float) -> bool:
        """Count an evaluation: of all generators within one error of the least distance, the latest is the best.

        The rule of one standard error (Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3):
        among what the evaluation cannot tell apart, the generator that was trained and averaged longest.
        """
        if distance < self.least[0]:
            self.least = (distance, error)
        return distance <= sum(self.least)

    def judge(self, distance: float, error: float, patience: int | None) -> None:
        """Count an evaluation: it is an improvement if the distance fell by more than the error of the difference."""
        before, its_error = self.milestone
        if distance < before - math.hypot(error, its_error):
            self.milestone, self.stale = (distance, error), 0
        else:
            self.stale += 1
        self.finished = patience is not None and self.stale >= patience

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name).state_dict() for name in _STATEFUL},
            **{name: getattr(self, name) for name in _COUNTERS},
            "best": None if self.best is None else vars(self.best),
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(content[name])
        for name in _COUNTERS:
            setattr(self, name, content[name])
        self.best = None if content["best"] is None else Best(**content["best"])


_STATEFUL = ("generator", "critic", "averaged", "terms", "generator_optimiser", "critic_optimiser")
_COUNTERS = ("step", "update", "seconds", "attempts", "stale", "milestone", "finished", "least")


class Checkpoints:
    """The checkpoints of one training in one directory, never declared to the workflow, which deletes outputs.

    Args:
        keep: how many of the latest stay. The best generator is inside each of them.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory, self.keep = directory, keep

    @contextlib.contextmanager
    def locked(self, name: str = "lock", *, patience: float = 60.0) -> Iterator[None]:
        """Hold the directory for this process; the operating system lets go when the process dies.

        Args:
            name: of the lock; different ones do not exclude each other.
            patience: how long another process may go on holding it [s].

        Raises:
            InputError: another process holds it and does not let go in time.
        """
        deadline = time.monotonic() + patience
        while (lock := self._try_to_lock(name)) is None:
            if time.monotonic() > deadline:
                raise InputError(
                    "another process is training this model",
                    where=self.directory,
                    cure="wait for it, or stop it, before you start it again",
                )
            time.sleep(0.2)
        with lock:
            yield

    def _try_to_lock(self, name: str) -> IO[str] | None:
        with explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / name).open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_nlink:  # not removed with all the rest by who held it
                return lock
        lock.close()
        return None

    def save(self, state: State) -> None:
        write_tensors(self._path(state.step), state.state_dict())
        for step in self._steps()[: -self.keep]:
            self._path(step).unlink()

    def resume(self, state: State) -> bool:
        """Load the latest checkpoint that can be read; False where there is none."""
        for step in reversed(self._steps()):
            try:
                before = "resume from the one before"
                content = read_tensors(self._path(step), "checkpoint", before, before)
            except InputError as error:
                log.info(str(error))
                continue
            state.load_state_dict(content)
            state.attempts += 1
            return True
        return False

    def latest(self) -> Path | None:
        """The checkpoint that the next start would resume from."""
        steps = self._steps()
        return self._path(steps[-1]) if steps else None

    def remove(self) -> None:
        """The model is finished: what is left of its making goes."""
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(self.directory.parent)  # noqa: PTH106 - only when no other training is under way there

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:09d}.pt"

    def _steps(self) -> list[int]:
        matches = (re.fullmatch(r"step-(\d+)\.pt", path.name) for path in self.directory.glob("step-*.pt"))
        return sorted(int(match[1]) for match in matches if match)
