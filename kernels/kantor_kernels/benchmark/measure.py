"""The measurement: check first, then contenders in turns, then a row for each figure."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kantor_kernels.benchmark.cases import Case, Contender
from kantor_kernels.benchmark.clock import Clock
from kantor_kernels.benchmark.rows import Row

LEAST_ROUNDS, MOST_ROUNDS = 5, 100
# Memory that a contender may take of what is free.
MEMORY_SHARE = 0.7
_PACKAGES = ("torch", "triton", "numba", "numpy", "geomloss", "pykeops", "jax", "kantor", "kantor-kernels")


@dataclass(frozen=True)
class Failure:
    """A contender of ours that is wrong, and was not timed."""

    case: str
    shape: str
    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{self.case} ({self.shape}), backend {self.backend}: {self.reason}"


@dataclass(frozen=True)
class Outcome:
    """Everything that a run found out."""

    rows: list[Row]
    failures: list[Failure]


def run(
    cases: Sequence[Case], clock: Clock, *, seconds: float = 20.0, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Measure every case.

    Args:
        cases: what to measure.
        clock: of the device to measure on.
        seconds: to spend on the turns of a case, but at least 5 and at most 100 turns are taken.
        say: told about each case.

    Returns:
        The rows in the order of the cases, and the contenders of ours that failed their check.
    """
    where = circumstances(clock)
    rows: list[Row] = []
    failures: list[Failure] = []
    for case in cases:
        found = _measure(case, clock, seconds, where, failures)
        rows += found
        for row in found:
            if row.metric == "time":
                say(_line(row))
    return Outcome(rows, failures)


def _measure(case: Case, clock: Clock, seconds: float, where: dict[str, object], failures: list[Failure]) -> list[Row]:
    rows: list[Row] = []
    running: list[Contender] = []

    def row(contender: Contender, metric: str = "time", unit: str = "s", **figures: Any) -> Row:
        values: dict[str, Any] = {
            "op": case.op,
            "case": case.case,
            "backend": contender.name,
            "ours": contender.ours,
            "mode": case.mode,
            "shape": case.shape,
            "size": case.size,
            "dtype": case.dtype,
            "metric": metric,
            "unit": unit,
            **dict.fromkeys(("p20", "p50", "p80", "ratio", "roofline")),
            "repetitions": 0,
            "opponent": "",
            **where,
            **figures,
        }
        return Row(**values)

    for contender in case.contenders(clock.device):
        reason = contender.missing or _too_large(contender, clock)
        if not reason:
            try:
                case.check(contender, clock.device)
            except AssertionError as error:
                reason = f"wrong, not timed: {error}"
                if contender.ours:
                    failures.append(Failure(case.case, case.shape, contender.name, str(error)))
            except Exception as error:
                # Out of memory, a broken installation: an opponent's own affair, but a defect in ours.
                reason = f"failed, not timed: {_first_line(error)}"
                if contender.ours:
                    failures.append(Failure(case.case, case.shape, contender.name, reason))
        if reason:
            rows.append(row(contender, note=reason))
            continue
        running.append(contender)
        graph, note = _graph(contender, clock)
        if graph is not None:
            running.append(graph)
        elif note:
            rows.append(row(Contender(f"{contender.name}, CUDA graph", contender.ours, contender.call), note=note))
    times = _take_turns(running, clock, seconds)
    rivals = [contender for contender in running if not contender.ours]
    best = min(rivals, key=lambda rival: quantile(times[rival.name], 0.5), default=None)
    rate = clock.peak_rate()
    for contender in running:
        taken = times[contender.name]
        figures = quantiles(taken)
        if contender.ours and best is not None:
            figures["opponent"] = best.name
            figures["ratio"] = quantile([a / b for a, b in zip(times[best.name], taken, strict=True)], 0.5)
        if rate is not None and case.operations is not None:
            figures["roofline"] = case.operations / rate / quantile(taken, 0.5)
        rows.append(row(contender, **figures))
    needed = {each.name: clock.peak_bytes(each.call) for each in running if not each.name.endswith("CUDA graph")}
    known = {name: float(peak) for name, peak in needed.items() if peak is not None}
    least = min((each.name for each in rivals if each.name in known), key=lambda name: known[name], default=None)
    for contender in running:
        if contender.name in known:
            figures = quantiles([known[contender.name]])
            if contender.ours and least is not None:
                figures |= {"opponent": least, "ratio": known[least] / max(known[contender.name], 1.0)}
            rows.append(row(contender, "peak memory", "B", **figures))
    return rows


def _take_turns(running: Sequence[Contender], clock: Clock, seconds: float) -> dict[str, list[float]]:
    """Times of every contender, one of each in every round: what disturbs a round disturbs all of them."""
    # The check has run each once; this tells how many rounds fit.
    round_seconds = sum(clock.seconds(contender.call) for contender in running)
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, int(seconds / max(round_seconds, 1e-9))))
    times: dict[str, list[float]] = {contender.name: [] for contender in running}
    for _ in range(rounds):
        for contender in running:
            times[contender.name].append(clock.seconds(contender.call))
    return times


def _graph(contender: Contender, clock: Clock) -> tuple[Contender | None, str]:
    """The contender as a CUDA graph, or why it cannot be one."""
    try:
        replay = clock.captured(contender.call)
    except RuntimeError as error:
        return None, f"not captured: {_first_line(error)}"
    if replay is None:
        return None, ""
    return Contender(f"{contender.name}, CUDA graph", contender.ours, replay), ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _too_large(contender: Contender, clock: Clock) -> str:
    free = clock.free_bytes()
    if contender.needs <= MEMORY_SHARE * free:
        return ""
    return f"needs about {contender.needs / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"


def quantiles(values: Sequence[float]) -> dict[str, Any]:
    """The columns of a row that say how long, and how often that was measured."""
    return {"repetitions": len(values), **{f"p{q}": quantile(values, q / 100) for q in (20, 50, 80)}}


def quantile(values: Sequence[float], q: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(q))


def circumstances(clock: Clock) -> dict[str, Any]:
    """The columns of a row that say where, with what and when."""
    return {
        "threads": torch.get_num_threads(),
        "device": clock.name(),
        "versions": " ".join(f"{name}={found}" for name in _PACKAGES if (found := _version(name))),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of this source tree, marked + where it was changed since; empty outside of a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _line(row: Row) -> str:
    where = f"{row.case}, {row.shape}: {row.backend}"
    if row.p50 is None:
        return f"{where}: {row.note}"
    against = f", {row.ratio:.1f} times as fast as {row.opponent}" if row.ratio is not None else ""
    return f"{where}: {1e3 * row.p50:.3g} ms{against}"
