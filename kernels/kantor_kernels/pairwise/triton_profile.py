"""What the Triton kernels share: the profile functions, their constants and the split of columns over programs."""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS_PER_PROCESSOR = 8


@triton.jit
def profile(t, scale_ptr, FAMILY: tl.constexpr, COUNT: tl.constexpr, TINY: tl.constexpr):
    """(k, p = k'(d) / d) of the squared distance t >= TINY, or of any t >= 0 where TINY is positive: 1/d is harmless at
    coincidence, where it multiplies zeros."""
    k = t * 0.0
    p = t * 0.0
    apart = t
    if TINY > 0.0:
        apart = tl.maximum(t, TINY)
    if FAMILY == "energy":
        q = tl.rsqrt(apart)
        k = -t * q
        p = -q
    elif FAMILY == "energy_power":
        half = tl.load(scale_ptr)
        e = tl.where(t > TINY, tl.exp(half * tl.log(apart)), 0.0)
        k = -e
        p = -2.0 * half * e / apart
    else:
        for index in tl.static_range(COUNT):
            c = tl.load(scale_ptr + index)
            if FAMILY == "gaussian":
                e = tl.exp(-c * t)
                k += e
                p -= 2.0 * c * e
            elif FAMILY == "laplacian":
                q = tl.rsqrt(apart)
                e = tl.exp(-c * (t * q))
                k += e
                p -= c * q * e
            elif FAMILY == "inverse_multiquadric":
                e = tl.rsqrt(1.0 + c * c * t)
                k += e
                p -= c * c * e * e * e
            else:
                h = 1.0 + t / (2.0 * c)
                e = tl.exp(-c * tl.log(h))
                k += e
                p -= e / h
        k *= 1.0 / COUNT
        p *= 1.0 / COUNT
    return k, p


def split_columns(programs: int, m: int, device: torch.device, multiple: int = 1) -> tuple[int, int]:
    """(parts, columns a part): enough programs to fill the device, at least 256 columns each."""
    wanted = max(1, PROGRAMS_PER_PROCESSOR * _processors(device) // max(programs, 1))
    columns = triton.cdiv(max(256, triton.cdiv(m, wanted)), multiple) * multiple
    return triton.cdiv(m, columns), columns


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def scales(family: str, constants: Sequence[float], like: Tensor) -> Tensor:
    values = torch.tensor(constants, dtype=torch.float64)
    if family == "energy":
        values = values / 2
    elif family == "gaussian":
        values = 0.5 / values**2
    elif family in ("laplacian", "inverse_multiquadric"):
        values = 1 / values
    return values.to(like.dtype).to(like.device)
