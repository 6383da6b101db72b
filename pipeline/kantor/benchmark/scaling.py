"""The benchmark of data parallelism: generator steps on 1, 2, 4 ... ranks, and how much of a step is communication.

A rank is a process with one thread; ranks talk through gloo. Ranks started by MPI's launcher are used, on as many hosts
as that has; alone, the command starts them on this machine. A step is compared with the same work of the same ranks at
the same time, only that none of them talks: the difference is communication, and waiting for the slowest rank.
"""

import json
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from kantor.benchmark.step import Ours, StepCase
from kantor.machine.ranks import Ranks
from kantor_kernels.benchmark import CpuClock, Failure, Outcome, Row, circumstances, quantile, quantiles
from kantor_kernels.testing import assert_close

OPERATION = "scaling"
# Steps at the start of a block that are not timed: data parallelism sorts its buckets anew after the first one.
_UNTIMED = 2
# What the ranks wait for takes seconds; a rank that died would let the others wait for this long.
_PATIENCE = timedelta(minutes=5)
_CPU = torch.device("cpu")
_TOGETHER, _ALONE = "kantor", "no communication"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        step: the step; its batch is that of all ranks (strong scaling), or of each (weak scaling).
        ranks: to start on this machine, where no launcher has started any.
        rounds: turns that both ways take.
        steps: timed steps of a turn.
        sizes: of all_reduce, beside those of the gradients [bytes].
        repetitions: of all_reduce, in each turn.
    """

    step: StepCase
    ranks: int = 4
    rounds: int = 5
    steps: int = 10
    sizes: tuple[int, ...] = (8, 4096, 65_536, 1 << 20, 1 << 22)
    repetitions: int = 20


FULL = Plan(StepCase(512))
QUICK = Plan(StepCase(64), ranks=2, rounds=1, steps=2, sizes=(8,), repetitions=3)


def run(ranks: Ranks, plan: Plan, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Measure on the MPI world, or on ranks of this machine where there is no other than this one.

    Returns:
        Rows and failures on rank 0, nothing on the others.
    """
    if ranks.size == 1:
        outcome = _locally(plan)
    else:
        store = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False) if ranks.is_root else None
        host, port = ranks.gather(ranks.size, lambda _: (socket.gethostname(), store.port if store else 0))[0]
        outcome = _Bench(plan, ranks.rank, ranks.size, store or TCPStore(host, port, timeout=_PATIENCE)).run()
    for row in outcome.rows:
        if row.p50 is not None:
            figure = f"{1e3 * row.p50:.3g} ms" if row.unit == "s" else f"{row.p50:g} {row.metric}"
            say(f"{row.case}, {row.shape}: {row.backend}: {figure}")
    return outcome


def _locally(plan: Plan) -> Outcome:
    from torch.multiprocessing.spawn import spawn

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    # As copies of this process, ranks would inherit locks that its threads hold.
    spawn(_local_rank, (plan, store.port), nprocs=plan.ranks)
    found = json.loads(store.get("outcome"))
    return Outcome([Row(**row) for row in found["rows"]], [Failure(**failure) for failure in found["failures"]])


def _local_rank(rank: int, plan: Plan, port: int) -> None:
    store = TCPStore("127.0.0.1", port, timeout=_PATIENCE)
    outcome = _Bench(plan, rank, plan.ranks, store).run()
    if rank == 0:
        store.set("outcome", json.dumps(asdict(outcome)))


@dataclass
class _Found:
    """What rank 0 knows of one number of ranks: seconds of steps by case, of all_reduce by bytes."""

    alone: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    together: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    reduced: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    collectives: dict[str, int] = field(default_factory=dict)


class _Bench:
    """One rank's part of the benchmark; the ranks meet at a store of keys, outside of what is measured."""

    def __init__(self, plan: Plan, rank: int, size: int, store: Store) -> None:
        self._plan, self._rank, self._size, self._store = plan, rank, size, store
        self._met: Counter[int] = Counter()

    def run(self) -> Outcome:
        """Everything, on all ranks together."""
        torch.set_num_threads(1)
        places = self._tell((socket.gethostname(), sorted(os.sched_getaffinity(0))), self._size)
        where = circumstances(CpuClock())
        rows: list[Row] = []
        failures: list[Failure] = []
        for world in (1 << n for n in range(self._size.bit_length())):
            step = self._plan.step
            cases = {
                f"strong scaling, {step.size} rows in all": step,
                f"weak scaling, {step.size} rows a rank": replace(step, size=world * step.size),
            }
            reason = self._wrong(world)
            found = _Found() if reason else self._turns(world, cases)
            shape = f"{world} rank{'s' if world > 1 else ''} on {_hosts(places[:world])}"
            if self._rank == 0:
                rows += _rows(found, world, reason, cases, {"shape": shape, "note": crowd(places[:world]), **where})
                failures += [Failure(case, shape, _TOGETHER, reason) for case in cases if reason]
        return Outcome(rows, failures)

    def _turns(self, world: int, cases: dict[str, StepCase]) -> _Found:
        """`world` ranks take turns with and without communication; the others wait."""
        found = _Found()
        for _ in range(self._plan.rounds):
            self._tell(None, self._size)
            if self._rank >= world:
                continue
            for case, step in cases.items():
                found.alone[case].append(self._block(step, world)[0])
            if world > 1:
                with self._group(world):
                    for case, step in cases.items():
                        seconds, found.collectives[case] = self._block(step, world)
                        found.together[case].append(seconds)
                    for size in sorted({*self._plan.sizes, *_gradients(self._plan.step)}):
                        found.reduced[size] += _all_reduce(size, self._plan.repetitions)
        return found

    def _block(self, step: StepCase, world: int) -> tuple[float, int]:
        """Mean seconds of a step on the slowest rank, and the collective calls of one."""
        training = step.training(_CPU, "float32", self._rank, world)
        times, calls = [], []

        def mark(*_: object) -> None:
            times.append(time.perf_counter())
            calls.append(_collectives())

        self._tell(None, world)
        training.steps(_UNTIMED + self._plan.steps, mark)
        mine = (times[-1] - times[_UNTIMED - 1]) / self._plan.steps
        return max(self._tell(mine, world)), calls[-1] - calls[-2]

    def _wrong(self, world: int) -> str:
        """Why `world` ranks are not to be timed: in float64 they do not end a step where one rank ends it."""
        reason = ""
        if world > 1 and self._rank < world:
            one = weights_after_a_step(self._plan.step.training(_CPU, "float64"))
            with self._group(world):
                all_ = weights_after_a_step(self._plan.step.training(_CPU, "float64", self._rank, world))
            try:
                assert_close("weights", all_, one, rtol=1e-8, atol=1e-10)
            except AssertionError as error:
                reason = f"wrong, not timed: {error}"
        return next(filter(None, self._tell(reason, self._size)), "")

    @contextmanager
    def _group(self, world: int) -> Iterator[None]:
        """The process group of the first `world` ranks."""
        store = PrefixStore(f"group {world} {self._met[world]}", self._store)
        dist.init_process_group("gloo", store=store, rank=self._rank, world_size=world)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def _tell(self, value: Any, world: int) -> list[Any]:
        """What each of the first `world` ranks says, once all of them have said it."""
        self._met[world] += 1
        keys = [f"meeting {world} {self._met[world]} {rank}" for rank in range(world)]
        self._store.set(keys[self._rank], json.dumps(value))
        return [json.loads(self._store.get(key)) for key in keys]


def weights_after_a_step(training: Ours) -> Tensor:
    """All weights of critic and generator after one generator step."""
    training.step()
    networks = (training.state.critic, training.state.generator)
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


def _rows(found: _Found, world: int, reason: str, cases: Collection[str], where: dict[str, Any]) -> list[Row]:
    none = dict.fromkeys(("p20", "p50", "p80", "ratio", "roofline"))
    common = {"op": OPERATION, "dtype": "float32", "opponent": "", "repetitions": 0, **none, **where}

    def row(case: str, backend: str, size: int, metric: str = "time", unit: str = "s", **figures: Any) -> Row:
        named = {"case": case, "backend": backend, "size": size, "metric": metric, "unit": unit}
        mode = StepCase.mode if case in cases else "sum over ranks"
        return Row(**{**common, **named, "mode": mode, "ours": backend == _TOGETHER, **figures})

    rows: list[Row] = []
    for case in cases:
        alone, together = found.alone[case], found.together[case]
        if reason:
            rows.append(row(case, _TOGETHER, world, note=reason))
        elif world == 1:
            rows.append(row(case, _TOGETHER, world, **quantiles(alone)))
        else:
            ratio = quantile([a / b for a, b in zip(alone, together, strict=True)], 0.5)
            calls = quantiles([float(found.collectives[case])])
            rows += [
                row(case, _TOGETHER, world, opponent=_ALONE, ratio=ratio, **quantiles(together)),
                row(case, _ALONE, world, **quantiles(alone)),
                row(case, _TOGETHER, world, "collectives", "1", **calls),
            ]
    for size, times in found.reduced.items():
        shape = f"{size} B, {where['shape']}"
        rows.append(row(f"all_reduce, {world} ranks", "gloo", size, shape=shape, **quantiles(times)))
    return rows


def _all_reduce(size: int, repetitions: int) -> list[float]:
    """Seconds of each of several sums over ranks of `size` bytes."""
    value = torch.zeros(size // 4)
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        dist.all_reduce(value)
        times.append(time.perf_counter() - began)
    return times


def _gradients(step: StepCase) -> list[int]:
    """Bytes of the critic's and of the generator's gradient."""
    state = step.training(_CPU, "float32").state
    return [4 * sum(p.numel() for p in network.parameters()) for network in (state.critic, state.generator)]


def _collectives() -> int:
    """Collective calls of this process group so far, those of data parallelism included."""
    if not dist.is_initialized():
        return 0
    group = dist.group.WORLD
    assert group is not None
    return group._get_sequence_number_for_group()  # pyright: ignore[reportAttributeAccessIssue]


def _hosts(places: Sequence[tuple[str, list[int]]]) -> str:
    number = len({host for host, _ in places})
    return f"{number} host{'s' if number > 1 else ''}"


def crowd(places: Sequence[tuple[str, list[int]]]) -> str:
    """What is wrong with (host, cores) of the ranks for a measurement, if anything."""
    hosts: dict[str, list[list[int]]] = {}
    for host, cores in places:
        hosts.setdefault(host, []).append(cores)
    for host in hosts.values():
        ranks, cores = len(host), len({core for rank in host for core in rank})
        if ranks > cores:
            return f"{ranks} ranks share {cores} core{'s' if cores > 1 else ''}: says nothing about more cores"
        if ranks > 1 and ranks == cores:
            return "no core to spare for gloo's own threads, which spin"
    return ""
