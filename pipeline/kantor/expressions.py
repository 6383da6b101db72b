"""Named expressions of columns, such as `sqrt(px**2 + py**2)`, for NumPy arrays and torch tensors alike.

The language is Python's arithmetic, comparisons and a fixed list of functions; nothing else is evaluated.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cached_property
from math import pi
from types import ModuleType
from typing import Any

from kantor.errors import ConfigError

FUNCTIONS = (
    "sqrt exp log log10 log1p expm1 abs sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh arcsinh hypot "
    "minimum maximum where"
).split()
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
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
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

        Raises:
            ConfigError: a column is not there.
        """
        missing = [name for name in self.names if name not in columns]
        if missing:
            raise ConfigError(
                f"'{self.text}' reads the unknown column '{missing[0]}'",
                cure=f"known columns: {', '.join(columns)}",
            )
        return self._evaluate(self._root, columns, library)

    def _check(self, node: ast.AST) -> None:
        known = (
            isinstance(node, ast.Name)
            or (isinstance(node, ast.Constant) and isinstance(node.value, int | float))
            or (isinstance(node, ast.BinOp) and type(node.op) in _BINARY)
            or (isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY)
            or (isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE)
            or _is_call(node)
        )
        if not known:
            raise ConfigError(
                f"'{self.text}' holds '{ast.unparse(node)}', which expressions do not know",
                cure=f"use + - * / **, one comparison at a time, & and |, and {', '.join(FUNCTIONS)}",
            )
        children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
        for child in children:
            if isinstance(child, ast.expr):
                self._check(child)

    def _evaluate(self, node: ast.AST, columns: Mapping[str, Any], library: ModuleType) -> Any:
        def value(child: ast.AST) -> Any:
            return self._evaluate(child, columns, library)

        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return CONSTANTS[node.id] if node.id in CONSTANTS else columns[node.id]
            case ast.BinOp():
                return _BINARY[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp():
                return _UNARY[type(node.op)](value(node.operand))
            case ast.Compare():
                return _COMPARE[type(node.ops[0])](value(node.left), value(node.comparators[0]))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return getattr(library, name)(*map(value, arguments))
        raise AssertionError(f"unchecked node {ast.dump(node)}")


def _is_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in FUNCTIONS
        and not node.keywords
    )
