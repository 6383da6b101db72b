"""How long a call takes and how much memory it needs, on the CPU and on CUDA devices."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

Call = Callable[[], Any]


class Clock(Protocol):
    """Measures calls on one device."""

    device: torch.device

    def name(self) -> str:
        """The device, in words."""
        ...

    def seconds(self, call: Call) -> float:
        """How long one call takes."""
        ...

    def peak_bytes(self, call: Call) -> int | None:
        """Memory that a call needs beyond what is there before; None where it cannot be told."""
        ...

    def free_bytes(self) -> int:
        """Memory that is free."""
        ...

    def captured(self, call: Call) -> Call | None:
        """The call as a CUDA graph; None on a device without graphs."""
        ...

    def peak_rate(self) -> float | None:
        """Fused multiply-adds in float32 per second at best; None where unknown."""
        ...


class CpuClock:
    """Wall-clock time and the resident set of this process, on Linux."""

    device = torch.device("cpu")

    def name(self) -> str:
        models = _fields(Path("/proc/cpuinfo"), "model name")
        return models[0] if models else "CPU"

    def seconds(self, call: Call) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    def peak_bytes(self, call: Call) -> int | None:
        gc.collect()
        try:
            # Freed memory that the allocator keeps would hide what the call needs.
            ctypes.CDLL(None).malloc_trim(0)
            # 5 sets the high-water mark of the resident set back to what is resident now.
            Path("/proc/self/clear_refs").write_text("5")
        except (OSError, AttributeError):
            return None
        before = _kilobytes("VmRSS")
        call()
        return max(0, _kilobytes("VmHWM") - before) * 1024

    def free_bytes(self) -> int:
        found = _fields(Path("/proc/meminfo"), "MemAvailable")
        return int(found[0].split()[0]) * 1024 if found else 1 << 62

    def captured(self, call: Call) -> Call | None:
        return None

    def peak_rate(self) -> float | None:
        return None


class CudaClock:
    """Device events on the current stream, PyTorch's allocator, and CUDA graphs.

    Args:
        device: a CUDA device.
        cuda: `torch.cuda`, or what stands in for it in a test.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device, self._cuda = device, cuda

    def name(self) -> str:
        return self._cuda.get_device_name(self.device)

    def seconds(self, call: Call) -> float:
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        self._cuda.synchronize(self.device)
        start.record()
        call()
        end.record()
        self._cuda.synchronize(self.device)
        return start.elapsed_time(end) / 1e3

    def peak_bytes(self, call: Call) -> int | None:
        self._cuda.synchronize(self.device)
        before = self._cuda.memory_allocated(self.device)
        self._cuda.reset_peak_memory_stats(self.device)
        call()
        self._cuda.synchronize(self.device)
        return max(0, self._cuda.max_memory_allocated(self.device) - before)

    def free_bytes(self) -> int:
        return self._cuda.mem_get_info(self.device)[0]

    def captured(self, call: Call) -> Call | None:
        # Capture wants libraries and caches warmed up on a stream of its own.
        side = self._cuda.Stream(self.device)
        side.wait_stream(self._cuda.current_stream(self.device))
        with self._cuda.stream(side):
            for _ in range(3):
                call()
        self._cuda.current_stream(self.device).wait_stream(side)
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph):
            call()
        return graph.replay

    def peak_rate(self) -> float | None:
        properties = self._cuda.get_device_properties(self.device)
        kilohertz = getattr(properties, "clock_rate", None)
        if not kilohertz:
            return None
        # Float32 lanes of a multiprocessor: 64 in data-centre Volta, Turing and A100, 128 in the others since.
        narrow = (properties.major, properties.minor) in {(7, 0), (7, 5), (8, 0)}
        return properties.multi_processor_count * (64 if narrow else 128) * kilohertz * 1e3


def _fields(path: Path, name: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]


def _kilobytes(name: str) -> int:
    return int(_fields(Path("/proc/self/status"), name)[0].split()[0])
