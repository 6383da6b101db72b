"""Packages that only some users need."""

from importlib import import_module
from types import ModuleType

from kantor.errors import InputError


def optional(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a package of one of Kantor's extras.

    Raises:
        InputError: it is not installed; the cure is the pip command.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{purpose} needs the package '{module}'", cure=f"pip install 'kantor[{extra}]'") from error
