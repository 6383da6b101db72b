"""Named expressions of columns, such as `sqrt(px**2 + py**2)`, for NumPy arrays and torch tensors alike.

The language is Python's arithmetic, comparisons, elements and slices, and a fixed list of functions; nothing else is
evaluated. An expression says what is computed for one event, by NumPy's rules: where a column is an array in each
event, `sum(layer_0)` is a number, `sum(layer_0, 1)` one for each index of the first axis, `layer_0[:, 2:]` a part.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import pi, prod
from types import ModuleType
from typing import Any

from kantor.errors import ConfigError
from kantor.shapes import shown

FUNCTIONS = (
    "sqrt exp log log10 log1p expm1 abs sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh arcsinh hypot "
    "minimum maximum where"
).split()
REDUCTIONS = "sum mean max min count".split()
"""Over all axes of an event's array, or over those that follow: an integer, or several in parentheses."""
ARRAYS = {"index": 2, "largest": 2}
"""Functions of an array and one integer: `index(x, axis)` counts 0, 1, ... along an axis of x, `largest(x, k)` is the
k-th largest number of an event's array, `largest(x, 1) = max(x)`."""
CONSTANTS = {"pi": pi}

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Expression:
    """One expression of named columns.

    Raises:
        ConfigError: the text is not an expression of the language.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._root = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ConfigError(f"'{text}' is not an expression: {error.msg}", cure="write it as in Python") from error
        self._check(self._root)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns the expression reads, in alphabetical order."""
        functions = {node.func.id for node in ast.walk(self._root) if _is_call(node)}  # type: ignore[attr-defined]
        names = {node.id for node in ast.walk(self._root) if isinstance(node, ast.Name)}
        return tuple(sorted(names - functions - set(CONSTANTS)))

    def __call__(self, columns: Mapping[str, Any], library: ModuleType) -> Any:
        """Evaluate with the functions of `library` (numpy or torch).

        Args:
            columns: (N, *shape) each.

        Returns:
            (N, *shape), or (1, *shape) where no column is read.

        Raises:
            ConfigError: a column is not there, or the shapes do not go together.
        """
        missing = [name for name in self.names if name not in columns]
        if missing:
            raise ConfigError(
                f"'{self.text}' reads the unknown column '{missing[0]}'",
                cure=f"known columns: {', '.join(columns)}",
            )
        return self._evaluate(self._root, columns, library)

    def rows(self, columns: Mapping[str, Any], library: ModuleType, rows: int) -> Any:
        """The same with a number, or an array, for each of so many rows: (rows, *shape)."""
        value = self(columns, library)
        if not hasattr(value, "ndim"):
            value = library.asarray(value)
        if library.__name__ == "torch" and not value.is_floating_point():
            value = value.to(library.get_default_dtype())
        return library.broadcast_to(value, (rows, *value.shape[1:]))

    def _check(self, node: ast.AST) -> None:
        known = (
            isinstance(node, ast.Name)
            or (isinstance(node, ast.Constant) and isinstance(node.value, int | float))
            or (isinstance(node, ast.BinOp) and type(node.op) in _BINARY)
            or (isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY)
            or (isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE)
            or (isinstance(node, ast.Subscript) and _index(node.slice) is not None)
            or _is_call(node)
        )
        if not known:
            raise ConfigError(
                f"'{self.text}' holds '{ast.unparse(node)}', which expressions do not know",
                cure=f"use + - * / **, one comparison at a time, & | and ~, elements and slices of arrays, and "
                f"{', '.join([*FUNCTIONS, *REDUCTIONS, *ARRAYS])}",
            )
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Subscript):
            children = [node.value]
        elif isinstance(node, ast.Call):
            children = node.args
            name = node.func.id  # type: ignore[attr-defined]
            if name in REDUCTIONS or name in ARRAYS:
                self._check_integers(name, node)
                children = node.args[:1]
        for child in children:
            if isinstance(child, ast.expr):
                self._check(child)

    def _check_integers(self, name: str, call: ast.Call) -> None:
        """A reduction has an array and perhaps axes, `index` and `largest` an array and an integer."""
        given = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
        found = [_integers(node) for node in given]
        single = len(found) == 1 and found[0] is not None and len(found[0]) == 1
        right = single if name in ARRAYS else not found or (len(found) == 1 and bool(found[0]))
        if not call.args or not right:
            cure = f"write {name}(x) or {name}(x, axis)" if name in REDUCTIONS else f"write {name}(x, 1)"
            elementwise = {"max": "maximum", "min": "minimum"}.get(name)
            raise ConfigError(
                f"'{self.text}' holds '{ast.unparse(call)}': after the array, {name} takes integers",
                cure=f"{cure}; of two arrays element by element, {elementwise}" if elementwise else cure,
            )

    def _evaluate(self, node: ast.AST, columns: Mapping[str, Any], library: ModuleType) -> Any:
        def value(child: ast.AST) -> Any:
            return self._evaluate(child, columns, library)

        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return CONSTANTS[node.id] if node.id in CONSTANTS else columns[node.id]
            case ast.BinOp():
                return _BINARY[type(node.op)](*self._aligned(node, value(node.left), value(node.right)))
            case ast.UnaryOp():
                return _UNARY[type(node.op)](value(node.operand))
            case ast.Compare():
                return _COMPARE[type(node.ops[0])](*self._aligned(node, value(node.left), value(node.comparators[0])))
            case ast.Subscript():
                return self._part(node, value(node.value))
            case ast.Call(func=ast.Name(id=name), args=[array, *more], keywords=keywords) if name not in FUNCTIONS:
                (integers,) = [_integers(given) for given in (*more, *(each.value for each in keywords))] or [None]
                return self._reduced(node, name, _floats(value(array), columns, library), integers, library)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                given = self._aligned(node, *map(value, arguments))
                return getattr(library, name)(*(_tensors(given, library) if library.__name__ == "torch" else given))
        raise AssertionError(f"unchecked node {ast.dump(node)}")

    def _aligned(self, node: ast.AST, *values: Any) -> list[Any]:
        """Operands (N, *shape) with the axes of their events aligned at the last, as NumPy does for one event."""
        shapes = [value.shape for value in values if getattr(value, "ndim", 0)]
        if len({len(shape) for shape in shapes}) > 1:
            most = max(map(len, shapes))
            values = tuple(
                value.reshape(value.shape[0], *[1] * (most - value.ndim), *value.shape[1:])
                if getattr(value, "ndim", 0)
                else value
                for value in values
            )
            shapes = [value.shape for value in values if getattr(value, "ndim", 0)]
        for sizes in zip(*(shape[1:] for shape in shapes), strict=True):
            if len({*sizes} - {1}) > 1:
                raise self._wrong(
                    node,
                    f"brings together arrays of {' and '.join(shown(shape[1:]) for shape in shapes)} in each event",
                    "sum over an axis, or take an element or a slice",
                )
        return list(values)

    def _part(self, node: ast.Subscript, value: Any) -> Any:
        index = _index(node.slice) or ()
        shape = value.shape[1:] if getattr(value, "ndim", 0) else ()
        fits = len(index) <= len(shape) and all(
            isinstance(each, slice) or -size <= each < size for each, size in zip(index, shape, strict=False)
        )
        if not fits:
            raise self._wrong(
                node, f"takes a part of {shown(shape)} that is not there", "indices begin at 0 on each axis of an event"
            )
        return value[(slice(None), *index)]

    def _reduced(
        self, node: ast.Call, name: str, value: Any, integers: Sequence[int] | None, library: ModuleType
    ) -> Any:
        shape = value.shape[1:] if getattr(value, "ndim", 0) else ()
        if name == "largest":
            return self._largest(node, value, shape, (integers or [1])[0], library)
        if any(not -len(shape) <= axis < len(shape) for axis in integers or ()):
            raise self._wrong(node, f"names an axis of {shown(shape)}", "axes of an event are counted from 0")
        axes = tuple(sorted(axis % len(shape) + 1 for axis in integers or ())) or tuple(range(1, len(shape) + 1))
        if name == "index":
            (axis,) = axes
            count = library.arange(shape[axis - 1], **_like(value, library))
            return count.reshape(*(len(count) if n == axis else 1 for n in range(len(shape) + 1)))
        if name == "count":
            value, name = library.where(value != 0, library.ones_like(value), library.zeros_like(value)), "sum"
        if not shape:
            return value
        if library.__name__ == "torch":
            return getattr(value, {"max": "amax", "min": "amin"}.get(name, name))(axes)
        return getattr(value, name)(axis=axes)

    def _largest(self, node: ast.Call, value: Any, shape: Sequence[int], k: int, library: ModuleType) -> Any:
        size = prod(shape)
        if not 1 <= k <= size:
            raise self._wrong(node, f"asks for number {k} of {shown(shape)}", "counts from 1")
        if not shape:
            return value
        flat = value.reshape(len(value), size)
        if library.__name__ == "torch":
            return flat.kthvalue(size - k + 1, dim=1).values
        return library.partition(flat, size - k, axis=1)[:, size - k]

    def _wrong(self, node: ast.AST, what: str, cure: str) -> ConfigError:
        return ConfigError(f"'{self.text}': '{ast.unparse(node)}' {what}", cure=cure)


def _is_call(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    if node.func.id in REDUCTIONS:
        return all(keyword.arg == "axis" for keyword in node.keywords)
    return node.func.id in (*FUNCTIONS, *ARRAYS) and not node.keywords


def _integer(node: ast.AST | None) -> int | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _integer(node.operand)
        return None if inner is None else -inner
    whole = isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool)
    return node.value if whole else None  # type: ignore[union-attr,return-value]


def _integers(node: ast.AST) -> list[int] | None:
    """An integer, or several in parentheses."""
    found = [_integer(each) for each in (node.elts if isinstance(node, ast.Tuple) else [node])]
    return None if None in found else [each for each in found if each is not None]


def _index(node: ast.AST) -> tuple[int | slice, ...] | None:
    """An index of integers and slices; None if it is something else."""
    found: list[int | slice] = []
    for each in node.elts if isinstance(node, ast.Tuple) else [node]:
        if isinstance(each, ast.Slice):
            ends = [(end, _integer(end)) for end in (each.lower, each.upper, each.step)]
            # Tensors have no slices that run backwards.
            if any(end is not None and number is None for end, number in ends) or (ends[2][1] or 1) < 1:
                return None
            found.append(slice(*(number for _, number in ends)))
        elif (position := _integer(each)) is not None:
            found.append(position)
        else:
            return None
    return tuple(found)


def _floats(value: Any, columns: Mapping[str, Any], library: ModuleType) -> Any:
    """True and False as 1 and 0 in the type of the columns."""
    if str(getattr(value, "dtype", "")) not in ("bool", "torch.bool"):
        return value
    if library.__name__ != "torch":
        return value.astype(float)
    kinds = [column.dtype for column in columns.values() if column.is_floating_point()]
    return value.to(min(kinds, key=lambda kind: kind.itemsize, default=library.get_default_dtype()))


def _tensors(values: Sequence[Any], torch: ModuleType) -> list[Any]:
    """Numbers as tensors of no dimension, which torch's functions ask for and which change no type."""
    device = next((value.device for value in values if hasattr(value, "device")), None)
    return [
        value if hasattr(value, "device") else torch.tensor(value, dtype=torch.float64, device=device)
        for value in values
    ]


def _like(value: Any, library: ModuleType) -> dict[str, Any]:
    """Type and device of numbers that stand beside `value`."""
    return {"dtype": value.dtype, **({"device": value.device} if library.__name__ == "torch" else {})}
