"""The benchmark: operations, backends and shapes against what a user would write without this library.

Measures and returns rows; draws nothing. A contender is timed only after its result has been compared with the float64
definition, and contenders of a case take turns, so that their ratios hold on a busy machine.
"""

from kantor_kernels.benchmark.cases import CASES, QUICK_CASES, Case, Contender
from kantor_kernels.benchmark.clock import CpuClock, CudaClock
from kantor_kernels.benchmark.measure import Failure, Outcome, circumstances, quantile, quantiles, run
from kantor_kernels.benchmark.rows import OPERATIONS, Row, read_rows, write_rows

__all__ = [
    "CASES",
    "OPERATIONS",
    "QUICK_CASES",
    "Case",
    "Contender",
    "CpuClock",
    "CudaClock",
    "Failure",
    "Outcome",
    "Row",
    "circumstances",
    "quantile",
    "quantiles",
    "read_rows",
    "run",
    "write_rows",
]
