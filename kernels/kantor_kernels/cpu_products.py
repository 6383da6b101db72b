"""Matrix products inside of compiled functions: a tile of the result in vector registers, written in LLVM's vectors.

A library's product costs a call through the interpreter, and its threads meet after each one. With products of its own
a whole step is one compiled function, which runs on any thread without the interpreter and keeps its rows in the
caches. Arrays are row-major; columns come in multiples of `COLUMNS`, rows in any number. K is the length of the sums.
"""

from __future__ import annotations

import itertools
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kantor_kernels.compiling import VECTOR

# A tile of six rows of 4 vectors of 64 bytes, or 2 of 32, leaves registers for what is multiplied.
_VECTORS = 4 if VECTOR == 64 else 2
# Every width is padded to whole cache lines, in single precision this many numbers.
COLUMNS = 16


class _Writer:
    """What an intrinsic writes: addresses in bytes, vectors of the type of its first array."""

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> None:
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments
        self.number = context.get_value_type(signature.args[0].dtype)
        self.size = context.get_abi_sizeof(self.number)
        self.vector = ir.VectorType(self.number, VECTOR // self.size)
        self.index = arguments[-1].type
        self.nothing = ir.Constant(self.vector, ir.Undefined)

    def array(self, position: int) -> tuple[Any, Any, Any, Any]:
        """Address, strides in bytes and number of rows of an argument."""
        view = self.context.make_array(self.signature.args[position])(
            self.context, self.builder, self.arguments[position]
        )
        rows, columns = cgutils.unpack_tuple(self.builder, view.strides)
        return (
            self.builder.ptrtoint(view.data, self.index),
            rows,
            columns,
            cgutils.unpack_tuple(self.builder, view.shape)[0],
        )

    def address(self, base: Any, *steps: tuple[Any, Any]) -> Any:
        for count, stride in steps:
            base = self.builder.add(base, self.builder.mul(count, stride))
        return base

    def load(self, at: Any, kind: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(at, kind.as_pointer()), align=self.size)

    def store(self, value: Any, at: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(at, value.type.as_pointer()), align=self.size)

    def spread(self, number: Any) -> Any:
        """A vector of equal numbers."""
        first = self.builder.insert_element(self.nothing, number, ir.IntType(32)(0))
        return self.pick(first, self.nothing, [0] * self.vector.count)

    def pick(self, one: Any, two: Any, places: list[int]) -> Any:
        chosen = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return self.builder.shuffle_vector(one, two, chosen)


def _tile(rows: int, columns: int, kind: str) -> Any:
    """tile(c, a, b, i, j): c[i : i + rows, j : j + columns] (+)= a[i : i + rows, :K] b[:, j : j + columns].

    Of the kind "apart", squares of differences are summed instead of products. Columns are counted in single precision;
    in double precision a tile has half as many.
    """
    vectors = 4 * columns // VECTOR

    @intrinsic
    def tile(_: Any, c: Any, a: Any, b: Any, i: Any, j: Any) -> Any:
        def generate(*parts: Any) -> Any:
            writer = _Writer(*parts)
            builder, vector, index = writer.builder, writer.vector, writer.index
            name = f"llvm.fmuladd.v{vector.count}f{8 * writer.size}"
            fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            row, column = writer.arguments[3:]
            c_at, c_row, c_column, _ = writer.array(0)
            a_at, a_row, a_k, _ = writer.array(1)
            b_at, b_k, b_column, length = writer.array(2)
            c_at = writer.address(c_at, (row, c_row), (column, c_column))
            a_at, b_at = writer.address(a_at, (row, a_row)), writer.address(b_at, (column, b_column))

            before, loop, after = builder.block, builder.append_basic_block("sum"), builder.append_basic_block("store")
            builder.cbranch(builder.icmp_signed(">", length, index(0)), loop, after)
            builder.position_at_end(loop)
            k = builder.phi(index)
            sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
            right = [
                writer.load(writer.address(b_at, (k, b_k), (index(v), index(VECTOR))), vector) for v in range(vectors)
            ]
            totals = []
            for r, parts_of_row in enumerate(sums):
                left = writer.spread(writer.load(writer.address(a_at, (index(r), a_row), (k, a_k)), writer.number))
                if kind == "apart":
                    apart = [builder.fsub(left, y) for y in right]
                    factors = list(zip(apart, apart, strict=True))
                else:
                    factors = [(left, y) for y in right]
                totals.append([builder.call(fused, [*pair, s]) for pair, s in zip(factors, parts_of_row, strict=True)])
            following = builder.add(k, index(1))
            builder.cbranch(builder.icmp_signed("<", following, length), loop, after)

            builder.position_at_end(after)
            zero = ir.Constant(vector, [0.0] * vector.count)
            k.add_incoming(index(0), before)
            k.add_incoming(following, loop)
            results = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
            for r, v in itertools.product(range(rows), range(vectors)):
                for phi in (sums[r][v], results[r][v]):
                    phi.add_incoming(zero, before)
                    phi.add_incoming(totals[r][v], loop)
            for r, v in itertools.product(range(rows), range(vectors)):
                at = writer.address(c_at, (index(r), c_row), (index(v), index(VECTOR)))
                value = results[r][v]
                writer.store(builder.fadd(value, writer.load(at, vector)) if kind == "add" else value, at)
            return writer.context.get_dummy_value()

        return types.void(c, a, b, types.intp, types.intp), generate

    return tile


def _turned(_: Any, out: Any, a: Any, i: Any, j: Any) -> Any:
    """out[j : j + n, i : i + n] = a[i : i + n, j : j + n]^T, n the numbers of a vector."""

    def generate(*parts: Any) -> Any:
        writer = _Writer(*parts)
        n, index = writer.vector.count, writer.index
        row, column = writer.arguments[2:]
        out_at, out_row, out_column, _ = writer.array(0)
        a_at, a_row, a_column, _ = writer.array(1)
        a_at = writer.address(a_at, (row, a_row), (column, a_column))
        out_at = writer.address(out_at, (column, out_row), (row, out_column))
        rows = [writer.load(writer.address(a_at, (index(r), a_row)), writer.vector) for r in range(n)]
        # Shuffling a pack of n rows perfectly, log2(n) times, turns it.
        low = [place + n * side for place in range(n // 2) for side in (0, 1)]
        high = [place + n // 2 for place in low]
        for _ in range(n.bit_length() - 1):
            pairs = zip(rows[: n // 2], rows[n // 2 :], strict=True)
            rows = [writer.pick(one, two, half) for one, two in pairs for half in (low, high)]
        for r, value in enumerate(rows):
            writer.store(value, writer.address(out_at, (index(r), out_row)))
        return writer.context.get_dummy_value()

    return types.void(out, a, types.intp, types.intp), generate


_square: Any = intrinsic(_turned)


@numba.njit(nogil=True, inline="never")
def transpose(out: Any, a: Any) -> None:
    """out[: a.shape[1], : a.shape[0]] = a^T; a may have more columns than `out` rows."""
    m, n = a.shape[0], min(a.shape[1], out.shape[0])
    side = VECTOR // a.itemsize
    even_m, even_n = m - m % side, n - n % side
    for i in range(0, even_m, side):
        for j in range(0, even_n, side):
            _square(out, a, i, j)
    for i in range(m):
        for j in range(0 if i >= even_m else even_n, n):
            out[j, i] = a[i, j]


def _strip(columns: int, kind: str) -> Any:
    """strip(c, a, b, j): these columns of all rows, in tiles of six rows, and of four and one for what is left."""
    six, four, one = (_tile(rows, columns, kind) for rows in (6, 4, 1))

    @numba.njit(nogil=True)
    def strip(c: Any, a: Any, b: Any, j: int) -> None:
        rows = c.shape[0]
        i = 0
        while i + 6 <= rows:
            six(c, a, b, i, j)
            i += 6
        if i + 4 <= rows:
            four(c, a, b, i, j)
            i += 4
        while i < rows:
            one(c, a, b, i, j)
            i += 1

    return strip


def _product(kind: str) -> Any:
    columns = VECTOR * _VECTORS // 4
    wide, narrow = _strip(columns, kind), _strip(COLUMNS, kind)

    @numba.njit(nogil=True, inline="never")
    def product(c: Any, a: Any, b: Any) -> None:
        across, thin = columns * 4 // c.itemsize, COLUMNS * 4 // c.itemsize
        j = 0
        while j + across <= c.shape[1]:
            wide(c, a, b, j)
            j += across
        while j < c.shape[1]:
            narrow(c, a, b, j)
            j += thin

    return product


# c = a b and c += a b, with a (M, >= K) in any layout, b (K, >= N), c (M, N), N a multiple of whole cache lines.
multiply, multiply_add = _product("set"), _product("add")
# c_ij = sum_k (a_ik - b_kj)^2, which takes half as long again and loses no close pair.
squared_distances = _product("apart")
