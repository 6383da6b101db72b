"""Tensors in files: written whole, read without running any code that a file might hold."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from kantor.errors import InputError
from kantor.machine.files import content, whole


def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write tensors and plain types whole."""
    with whole(path) as temporary:
        torch.save(tensors, temporary)


def read_tensors(path: Path, what: str, missing: str, damaged: str) -> dict[str, Any]:
    """Read what `write_tensors` wrote.

    Args:
        what: what it should be.
        missing, damaged: the cures.

    Raises:
        InputError: there is no such file, or it is damaged or something else; it says what it should be.
    """
    try:
        found = torch.load(io.BytesIO(content(path, missing)), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"is not a {what}, or is damaged: {reason}", where=path, cure=damaged) from error
    if not isinstance(found, dict):
        raise InputError(f"is not a {what}", where=path, cure=damaged)
    return found
