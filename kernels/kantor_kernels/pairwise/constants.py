"""Small tensors of numbers that calls repeat, held on their device: a copy there would stop the host and any graph."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kantor_kernels import transforms

# A graph reads its tensors for as long as it lives: what one was captured with is never let go.
_HELD: dict[int, Tensor] = {}


def on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor that nobody may change.

    As for everything else, a CUDA graph can be captured after one call outside of it.
    """
    if torch.compiler.is_compiling():
        return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])
    if transforms.active():
        return torch.tensor(
            values, dtype=dtype, device=device
        )  # a tensor of the transform, which ends before the next call
    found = _made(values, dtype, device)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _HELD[id(found)] = found
    return found


@lru_cache(maxsize=256)
def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Outside of inference mode, so that it can be saved for a backward pass later on.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
