"""The benchmark of a generator step compares two ways to the same weights."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from kantor.benchmark.step import CASES, AllPairsCase, StepCase
from kantor.losses import CriticLoss
from kantor_kernels.benchmark import CpuClock, run

TINY = StepCase(16, width=8, depth=2, latent=4)


def test_both_ways_end_with_the_same_weights_and_are_timed() -> None:
    outcome = run([TINY], CpuClock(), seconds=0)
    assert not outcome.failures
    times = {row.backend: row for row in outcome.rows if row.metric == "time"}
    assert times["kantor"].ratio is not None
    assert times["double backward"].p50 is not None
    # An opponent where it is installed.
    missing = [name for name in ("jax", "optax") if find_spec(name) is None]
    assert times["JAX"].note == (f"not installed: {', '.join(missing)}" if missing else "")


def test_all_pairs_are_timed_beside_partners() -> None:
    outcome = run([AllPairsCase(16, width=8, depth=2, latent=4, embedding=3)], CpuClock(), seconds=0)
    assert not outcome.failures
    assert {row.backend for row in outcome.rows if row.metric == "time"} == {"kantor", "kantor, partners"}


def test_all_pairs_that_are_off_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = AllPairsCase(16, width=8, depth=2, latent=4, embedding=3)
    monkeypatch.setattr("kantor.losses.moments.with_penalty", lambda _p, _b, loss, d, _f: CriticLoss(loss, d, d, d))
    (ours, _) = case.contenders(torch.device("cpu"))
    with pytest.raises(AssertionError, match="critic"):
        case.check(ours, torch.device("cpu"))


def test_a_step_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kantor.benchmark.step.eager_critic_loss", lambda *_: torch.zeros((), requires_grad=True))
    ours, *_ = TINY.contenders(torch.device("cpu"))
    with pytest.raises(AssertionError, match="critic"):
        TINY.check(ours, torch.device("cpu"))


def test_the_sizes_of_the_recipes_are_measured() -> None:
    shapes = {(case.size, case.latent, case.width, case.depth) for case in CASES}
    assert shapes == {(n, 64, 128, 4) for n in (64, 512, 4096)}
    assert replace(TINY, size=512).shape == "B = 512, D = 8"
