"""The benchmark: it checks before it times, compares in turns, and runs its CUDA path on a stand-in for the device."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from kantor_kernels import Energy, Gaussian, Laplacian, backends, mmd
from kantor_kernels.benchmark import (
    CASES,
    OPERATIONS,
    QUICK_CASES,
    Case,
    Contender,
    CpuClock,
    CudaClock,
    Row,
    opponents,
    read_rows,
    run,
    write_rows,
)
from kantor_kernels.benchmark.cases import CriticStepCase, PairwiseCase, PenaltyCase, SlicedCase
from kantor_kernels.benchmark.critics import CRITICS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So short calls on several threads wait for the machine more than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TINY: tuple[Case, ...] = (
    PairwiseCase(260, 3, Energy()),
    PairwiseCase(260, 1, Energy()),
    PairwiseCase(260, 30, Gaussian(2.0)),
    PairwiseCase(260, 3, Laplacian(2.0)),
    SlicedCase(260, directions=8),
    *(PenaltyCase(16, critic) for critic in CRITICS),
    CriticStepCase(16),
)


@dataclass(frozen=True)
class Scripted(Case):
    """A case whose contenders do nothing; `wrong` ones fail their check."""

    size: int = 7
    wrong: tuple[str, ...] = ()
    needs: int = 0

    op = "pairwise"

    @property
    def case(self) -> str:
        return "scripted"

    @property
    def shape(self) -> str:
        return f"N = {self.size}"

    @property
    def operations(self) -> float | None:
        return 4.0

    def contenders(self, device: torch.device) -> list[Contender]:
        return [
            Contender("cpu", True, lambda: (torch.tensor(1.0),)),
            Contender("slow", False, lambda: (torch.tensor(5.0),)),
            Contender("fast", False, lambda: (torch.tensor(2.0),), needs=self.needs),
            Contender("absent", False, tuple, missing="not installed"),
        ]

    def check(self, contender: Contender, device: torch.device) -> None:
        if contender.name in self.wrong:
            raise AssertionError("two is not three")


class Script:
    """A clock on which a call takes as many seconds as it returns, times the number of the round."""

    device = torch.device("cpu")
    names = ("", "cpu", "fast", "", "", "slow")

    def __init__(self) -> None:
        self.order: list[str] = []

    def name(self) -> str:
        return "script"

    def seconds(self, call: Callable[[], Any]) -> float:
        (seconds,) = call()
        name = self.names[int(seconds)]
        self.order.append(name)
        return float(seconds) * self.order.count(name)

    def peak_bytes(self, call: Callable[[], Any]) -> int | None:
        return {"cpu": 10, "fast": 400, "slow": 200}[self.names[int(call()[0])]]

    def free_bytes(self) -> int:
        return 1000

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any] | None:
        return None

    def peak_rate(self) -> float | None:
        return 8.0


def test_contenders_take_turns_and_ratios_are_those_of_a_round() -> None:
    clock = Script()
    rows = {(row.backend, row.metric): row for row in run([Scripted()], clock, seconds=0).rows}
    assert clock.order == ["cpu", "slow", "fast"] * 6
    ours = rows["cpu", "time"]
    # Rounds 2 to 6 take 2 to 6 times as long; the ratio to the faster opponent is 2 in each of them.
    assert (ours.p50, ours.repetitions, ours.opponent, ours.ratio) == (4.0, 5, "fast", 2.0)
    assert ours.p20 == pytest.approx(2.8)
    assert ours.roofline == pytest.approx(4.0 / 8.0 / 4.0)
    assert rows["slow", "time"].ratio is None
    memory = rows["cpu", "peak memory"]
    assert (memory.p50, memory.opponent, memory.ratio) == (10.0, "slow", 20.0)
    assert (rows["absent", "time"].p50, rows["absent", "time"].note) == (None, "not installed")
    assert (ours.device, ours.threads) == ("script", torch.get_num_threads())
    assert "torch=" in ours.versions
    assert ours.date.endswith("Z")


def test_what_is_wrong_is_reported_and_not_timed() -> None:
    clock = Script()
    outcome = run([Scripted(wrong=("cpu", "fast"))], clock, seconds=0)
    assert set(clock.order) == {"slow"}
    assert [str(failure) for failure in outcome.failures] == ["scripted (N = 7), backend cpu: two is not three"]
    notes = {row.backend: row.note for row in outcome.rows if row.p50 is None}
    assert notes["cpu"] == notes["fast"] == "wrong, not timed: two is not three"


def test_what_does_not_fit_into_memory_is_not_run() -> None:
    outcome = run([Scripted(needs=900)], Script(), seconds=0)
    (row,) = [row for row in outcome.rows if row.backend == "fast"]
    assert row.p50 is None
    assert row.note.startswith("needs about")


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.case)
def test_every_kind_of_case_passes_its_check_and_is_timed(case: Case) -> None:
    outcome = run([case], CpuClock(), seconds=0)
    assert not outcome.failures
    timed = [row for row in outcome.rows if row.metric == "time" and row.p50 is not None]
    assert any(row.ours for row in timed)
    assert any(not row.ours for row in timed)
    for row in timed:
        assert 0 < (row.p20 or 0) <= (row.p50 or 0) <= (row.p80 or 0)
        assert (row.ratio is not None) == row.ours


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.case)
def test_the_check_sees_an_error(case: Case) -> None:
    """A gradient that is off by a thousandth of its largest element is red."""
    for contender in case.contenders(torch.device("cpu")):
        if not contender.ours:
            continue

        def off(call: Callable[[], tuple[torch.Tensor, ...]] | None) -> tuple[torch.Tensor, ...]:
            assert call is not None
            value, *slopes = call()
            return value, *(slope + 1e-3 * slope.abs().max() for slope in slopes)

        broken = replace(
            contender,
            call=lambda c=contender: off(c.call),
            small=None if contender.small is None else lambda c=contender: off(c.small),
        )
        with pytest.raises(AssertionError):
            case.check(broken, torch.device("cpu"))


def test_the_peak_of_memory_is_seen() -> None:
    clock = CpuClock()
    peak = clock.peak_bytes(lambda: torch.ones(64 << 20, dtype=torch.uint8))
    if peak is None:
        pytest.skip("this system does not tell the high-water mark")
    assert peak == pytest.approx(64 << 20, rel=0.2)


class FakeCuda:
    """What `CudaClock` uses of torch.cuda, on the CPU."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.replays, self.synchronised = refuses, 0, 0

    def Event(self, enable_timing: bool) -> SimpleNamespace:  # noqa: N802 - as in torch.cuda
        assert enable_timing
        event = SimpleNamespace(at=0.0)
        event.record = lambda: setattr(event, "at", time.perf_counter())
        event.elapsed_time = lambda other: 1e3 * (other.at - event.at)
        return event

    def CUDAGraph(self) -> SimpleNamespace:  # noqa: N802 - as in torch.cuda
        def replay() -> None:
            self.replays += 1

        return SimpleNamespace(replay=replay)

    @contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        yield

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        yield

    def Stream(self, device: torch.device) -> SimpleNamespace:  # noqa: N802 - as in torch.cuda
        return SimpleNamespace(wait_stream=lambda other: None)

    def current_stream(self, device: torch.device) -> SimpleNamespace:
        return self.Stream(device)

    def synchronize(self, device: torch.device) -> None:
        self.synchronised += 1

    def memory_allocated(self, device: torch.device) -> int:
        return 100

    def max_memory_allocated(self, device: torch.device) -> int:
        return 350

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        pass

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 1 << 40, 1 << 40

    def get_device_name(self, device: torch.device) -> str:
        return "a fake device"

    def get_device_properties(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(major=9, minor=0, multi_processor_count=10, clock_rate=1_000_000)


def test_the_cuda_path_runs() -> None:
    cuda = FakeCuda()
    clock = CudaClock(torch.device("cpu"), cuda)
    assert clock.peak_rate() == 10 * 128 * 1e9
    outcome = run([PairwiseCase(64, 3, Energy())], clock, seconds=0)
    assert not outcome.failures
    rows = {(row.backend, row.metric): row for row in outcome.rows}
    assert rows["torch", "peak memory"].p50 == 250
    assert (rows["torch, CUDA graph", "time"].p50 or 0) > 0
    assert cuda.replays >= 10
    assert (rows["torch", "time"].roofline or 0) > 0
    assert rows["torch", "time"].device == "a fake device"


def test_what_cannot_be_captured_is_said() -> None:
    outcome = run([PairwiseCase(64, 3, Energy())], CudaClock(torch.device("cpu"), FakeCuda(refuses=True)), seconds=0)
    notes = {row.backend: row.note for row in outcome.rows if row.metric == "time"}
    assert notes["torch, CUDA graph"] == "not captured: operation not permitted when stream is capturing"
    assert notes["torch"] == ""


def found_besides(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These packages look installed; what PyTorch and Numba look for when they are first used is found as it is."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: object() if name in names else find(name, *more)
    )


def test_geomloss_is_an_opponent_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples_loss(name: str, blur: float, backend: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        assert (name, blur, backend) == ("gaussian", 2.0, "online")
        return lambda x, y: mmd(x, y, kernel=Gaussian(blur)) / 2

    assert opponents.geomloss_mmd(Energy())[1] in ("", "not installed: geomloss, pykeops")
    module = ModuleType("geomloss")
    monkeypatch.setattr(module, "SamplesLoss", samples_loss, raising=False)
    monkeypatch.setitem(sys.modules, "geomloss", module)
    found_besides(monkeypatch, "geomloss", "pykeops")
    outcome = run([PairwiseCase(100, 3, Gaussian(2.0))], CpuClock(), seconds=0)
    assert not [row for row in outcome.rows if row.backend == "geomloss, KeOps" and row.note]


def test_an_opponent_that_breaks_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geomloss", None)
    found_besides(monkeypatch, "geomloss", "pykeops")
    outcome = run([PairwiseCase(100, 3, Energy())], CpuClock(), seconds=0)
    assert not outcome.failures
    (note,) = [row.note for row in outcome.rows if row.backend == "geomloss, KeOps"]
    assert note.startswith("failed, not timed: ")


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "C++ compiler" in (backends.why_not_compile(torch.device("cpu")) or "")
    assert backends.why_not_compile(torch.device("cuda")) is None
    case = PairwiseCase(50, 3, Energy(), torch_compile=True)
    assert "C++ compiler" in next(c.missing for c in case.contenders(torch.device("cpu")) if c.name == "torch.compile")


def test_the_shapes_that_matter_are_measured() -> None:
    shapes = {(case.case, case.size) for case in CASES}
    for d, n in ((8, 16_000), (64, 4_000), (256, 4_000), (8, 1_000), (4, 60_000), (1, 1_000_000)):
        assert (f"energy distance, D = {d}", n) in shapes
    for name in ("Gaussian", "Laplacian"):
        assert (f"{name} MMD, D = 8", 16_000) in shapes
    for batch in (64, 512, 4_096):
        assert {f"gradient penalty, critic {critic}" for critic in CRITICS} <= {
            case for case, n in shapes if n == batch
        }
        assert ("WGAN-GP critic step, critic 8-128x4-1", batch) in shapes
    assert {case.op for case in CASES} == {case.op for case in QUICK_CASES} == set(OPERATIONS)


def test_rows_survive_their_file(tmp_path: Path) -> None:
    rows = run([Scripted()], Script(), seconds=0).rows
    write_rows(tmp_path / "pairwise.csv", rows)
    assert read_rows(tmp_path / "pairwise.csv") == rows
    assert [file.name for file in tmp_path.iterdir()] == ["pairwise.csv"]
    (tmp_path / "old.csv").write_text("op,case\npairwise,x\n")
    with pytest.raises(ValueError, match="no benchmark of this version"):
        read_rows(tmp_path / "old.csv")


def test_a_row_says_everything_about_itself() -> None:
    documented = (Row.__doc__ or "").split()
    assert not [
        name for name in Row.__dataclass_fields__ if f"{name}:" not in documented and f"{name}," not in documented
    ]
