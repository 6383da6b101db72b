"""The entrance of all operations: what an argument has to be, checked before anything is computed.

Every error names the argument, what was given and the cure. TypeError: a value of the wrong type; ValueError: one of
the right type that cannot be used. No check reads the entries of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def check_tensors(**values: object) -> None:
    """Each of these, by its name, is a tensor.

    Raises:
        TypeError: one is not.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {given(value)}; convert it with torch.as_tensor")


def check_optional_tensors(**values: object) -> None:
    """As `check_tensors`, or None."""
    check_tensors(**{name: value for name, value in values.items() if value is not None})


def finite_number(name: str, value: object) -> float:
    """The number that a Python, NumPy or one-element tensor number is.

    Raises:
        TypeError: it is none, or a tensor that is to be differentiated by.
        ValueError: it is NaN or infinite.
    """
    result = number(name, value)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {value}; pass a finite number")
    return result


def number(name: str, value: object) -> float:
    """As `finite_number`, or NaN, or infinite."""
    if type(value) is float:
        return value
    if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad:
        return float(value)
    if not isinstance(value, Real) or isinstance(value, bool):
        cure = "a constant, so pass float() of it" if isinstance(value, Tensor) else "pass a float"
        raise TypeError(f"{name} must be a number, got {given(value)}; {cure}")
    return float(value)


def whole_number(name: str, value: object, least: int = 1) -> int:
    """The whole number that a Python or NumPy integer is.

    Raises:
        TypeError: it is none.
        ValueError: it is less than `least`.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {given(value)}; pass an int")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_flags(**values: object) -> None:
    """Each of these, by its name, is True or False.

    Raises:
        TypeError: one is not.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {given(value)}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """The value is one of these words.

    Raises:
        TypeError: it is no word.
        ValueError: it is another.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {_either(choices)}, got {given(value)}")
    if value not in choices:
        raise ValueError(f"{name} must be {_either(choices)}, got {value!r}")


def instance(name: str, value: object, kind: type[T], example: str) -> T:
    """The value, if it is of this class.

    Args:
        example: how one is made, for the message.

    Raises:
        TypeError: it is not, or it is the class itself.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {given(value)}; pass {example}, say")
    return value


def check_generator(value: object) -> None:
    """The value is a random number generator of PyTorch, or None.

    Raises:
        TypeError: it is neither.
    """
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {given(value)}; pass torch.Generator().manual_seed(seed)"
        )


def given(value: Any) -> str:
    """What a message says of a value that is of the wrong type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}" + (" that requires a gradient" if value.requires_grad else "")
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _either(choices: Collection[str]) -> str:
    *most, last = (f'"{choice}"' for choice in choices)
    return f"{', '.join(most)} or {last}"
