"""Comparisons that refuse NaN, the shapes that break kernels, and poisoned memory. For tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# One row, odd, one below and one above powers of two, primes.
AWKWARD_SIZES = (1, 3, 63, 65, 127, 257)


def assert_close(
    name: str,
    actual: Tensor,
    expected: Tensor,
    *,
    baseline: Tensor | None = None,
    factor: float = 2.0,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """Assert that `actual` is `expected`, elementwise within a tolerance that is derived where possible.

    With a `baseline` (the plain computation in the dtype of `actual`) the error may be `factor` times the
    baseline's largest error, plus `atol`; without, rtol * |expected| + atol.

    Raises:
        AssertionError: shapes differ, a value is NaN or infinite where the expected one is not, or the error exceeds.
    """
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    assert not expected.isnan().any(), f"{name}: the expected values contain NaN"
    assert not actual.isnan().any(), f"{name}: {int(actual.isnan().sum())} of {actual.numel()} values are NaN"
    if actual.numel() == 0:
        return
    error = torch.where(actual == expected, 0.0, (actual - expected).abs())
    bound = atol + rtol * expected.abs()
    if baseline is not None:
        assert not baseline.isnan().any(), f"{name}: the baseline contains NaN"
        bound = bound + factor * (baseline.detach().double().cpu() - expected).abs().max()
    excess = error - bound
    worst = int(excess.argmax())
    assert bool((excess <= 0).all()), (
        f"{name}: {int((excess > 0).sum())} of {actual.numel()} values are off, worst "
        f"{actual.flatten()[worst]:.9g} for {expected.flatten()[worst]:.9g} "
        f"(error {error.flatten()[worst]:.3g}, allowed {bound.expand_as(error).flatten()[worst]:.3g})"
    )


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what `torch.empty`, `empty_like` and `new_empty` return with NaN, so that unwritten output shows.

    PyTorch does so while its algorithms are to be deterministic (`torch.utils.deterministic`).
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
