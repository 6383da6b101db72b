"""Tensors in files: written whole, read without running any code that a file might hold."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from kantor.errors import InputError
from kantor.machine.files import whole


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain types whole."""
    with whole(path) as temporary:
        torch.save(content, temporary)


def read_tensors(path: Path, what: str, cure: str) -> dict[str, Any]:
    """Read what `write_tensors` wrote.

    Raises:
        InputError: there is no such file, or it is damaged or something else; it says which `what` it should be.
    """
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no such {what}", where=path, cure=cure) from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"is not a {what}, or is damaged: {error}", where=path, cure=cure) from error
    if not isinstance(content, dict):
        raise InputError(f"is not a {what}", where=path, cure=cure)
    return content
