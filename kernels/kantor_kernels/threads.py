"""Threads for compiled kernels: PyTorch's own, so that no two sets of threads want the same cores.

PyTorch's OpenMP threads wait for the next parallel region by spinning, which would steal the cores from any others.
Asked through the same OpenMP library, they are the ones that do our work: `run_all` gives them calls from Python,
`run_parts` parts of a compiled function, which start in a microsecond and need no interpreter. Inside of either PyTorch
and its matrix library see that they are in a parallel region and stay on one thread each.

OpenMP's threads do not survive `os.fork`. What is compiled here stays on the child's one thread; PyTorch's own
operations, `torch.mm` among them, wait in the child for threads that are gone, unless `torch.set_num_threads(1)` is
called there first.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# Less work than this many pairs of points is not worth waking a thread.
PAIRS_PER_THREAD = 50_000
# Several tasks a thread even out a busy machine.
TASKS_PER_THREAD = 4

_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@dataclass(frozen=True)
class Work:
    """Rows that can be worked in any order.

    Attributes:
        run: run(first, last) works these rows; without the GIL, if it is to run at the same time as others.
        rows: how many there are.
        pairs: what a row costs, in pairs of points.
    """

    run: Callable[[int, int], None]
    rows: int
    pairs: float


def run_all(*works: Work) -> None:
    """Do all of this, on as many threads as PyTorch uses, the caller's among them.

    Raises:
        Exception: the first one that a piece of work raised.
    """
    total = sum(work.rows * work.pairs for work in works)
    threads, parallel = how_many(total), _parallel()
    if threads == 1 or parallel is None:
        for work in works:
            work.run(0, work.rows)
        return
    tasks = []
    for work in works:
        step = max(1, round(total / (TASKS_PER_THREAD * threads) / work.pairs))
        tasks += [(work.run, first, min(first + step, work.rows)) for first in range(0, work.rows, step)]
    remaining = iter(tasks)
    errors: list[BaseException] = []

    def drain(_: object) -> None:
        try:
            # next() on a list's iterator is atomic under the GIL.
            for run, first, last in remaining:
                run(first, last)
        except BaseException as error:
            errors.append(error)

    parallel(_Region(drain), None, threads, 0)
    if errors:
        raise errors[0]


def how_many(pairs: float) -> int:
    """Threads for work that costs as much as so many pairs of points."""
    if _forked:
        return 1
    return min(torch.get_num_threads(), max(1, int(pairs / PAIRS_PER_THREAD)))


@cache
def starter() -> int:
    """The address that `run_parts` starts threads by; 0: there are none, the caller's thread does everything."""
    parallel = _parallel()
    return 0 if parallel is None else ctypes.cast(parallel, ctypes.c_void_p).value or 0


def _run_parts(typing: Any, starter: Any, threads: Any, parts: Any, work: Any, arguments: Any) -> Any:
    """work(part, *arguments) for every part below `parts`, on so many threads; for use in compiled functions.

    No thread needs the interpreter, so that starting them takes a microsecond. `work` is compiled and raises nothing.

    Args:
        starter: what `starter()` gives.
        threads: how many, the caller's among them.
        parts: how many parts there are; a thread that is done takes the next one.
        work: a function compiled by Numba.
        arguments: a tuple, the same for all parts.
    """
    inner = work.get_call_type(typing, (types.intp, *arguments.types), {})

    def generate(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> Any:
        starter, threads, parts, _, given = values
        nothing, address, unsigned = ir.VoidType(), ir.IntType(8).as_pointer(), ir.IntType(32)
        # The next part, how many there are, and the arguments.
        state = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [parts.type(0), parts, given]))
        name = builder.module.get_unique_name("region")
        region = ir.Function(builder.module, ir.FunctionType(nothing, [address]), name)
        region.linkage = "internal"
        _write_region(context, region, state.type, work, inner)

        data = builder.bitcast(state, address)
        alone = builder.or_(
            builder.icmp_signed("==", starter, starter.type(0)), builder.icmp_signed("<=", threads, starter.type(1))
        )
        with builder.if_else(alone) as (then, otherwise):
            with then:
                builder.call(region, [data])
            with otherwise:
                start = ir.FunctionType(nothing, [region.type, address, unsigned, unsigned]).as_pointer()
                many = builder.trunc(threads, unsigned)
                builder.call(builder.inttoptr(starter, start), [region, data, many, unsigned(0)])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, work, arguments), generate


run_parts: Any = intrinsic(_run_parts)


def _write_region(context: Any, region: ir.Function, state: Any, work: Any, inner: Any) -> None:
    """What every thread does: while (part = next++) < parts: work(part, *arguments)."""
    overload = work.dispatcher.overloads[tuple(inner.args)]
    context.add_linking_libs([overload.library])
    builder = ir.IRBuilder(region.append_basic_block("begin"))
    take, do, end = (region.append_basic_block(name) for name in ("take", "do", "end"))
    fields = builder.bitcast(region.args[0], state)
    following, parts, given = (cgutils.gep_inbounds(builder, fields, 0, place) for place in range(3))
    arguments = cgutils.unpack_tuple(builder, builder.load(given))
    builder.branch(take)
    builder.position_at_end(take)
    part = builder.atomic_rmw("add", following, ir.Constant(following.type.pointee, 1), "monotonic")
    builder.cbranch(builder.icmp_signed("<", part, builder.load(parts)), do, end)
    builder.position_at_end(do)
    context.call_internal_no_propagate(builder, overload.fndesc, inner, [part, *arguments])
    builder.branch(take)
    builder.position_at_end(end)
    builder.ret_void()


@cache
def _parallel() -> Any:
    """GOMP_parallel(function, data, threads, flags) of the OpenMP library that PyTorch is linked with, or None.

    Every OpenMP library for Linux has this symbol, GNU's because GCC compiles `#pragma omp parallel` to it, LLVM's and
    Intel's for its sake. A symbol is looked for in a library and in those it needs.
    """
    if not torch.backends.openmp.is_available():
        return None
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return function


# OpenMP's threads do not survive a fork, and the child would wait for them for ever.
_forked: list[bool] = []
os.register_at_fork(after_in_child=lambda: _forked.append(True))
