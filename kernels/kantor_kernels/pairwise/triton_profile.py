"""What the Triton kernels share: the profile functions, their constants and the split of columns over programs."""

# Jitted functions are not the Python that they look like.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kantor_kernels.pairwise.constants import on_device

# Programs that run on a processor at one time, roughly; columns below which a program is not worth its start.
RESIDENT, LEAST_COLUMNS = 4, 32


# Which pairs (i, j) of a sum count: all, those with i != j, those with i < j.
EVERY, OFF_DIAGONAL, ABOVE = "every", "off_diagonal", "above"


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
        # The larger of a NaN and a number is the number: a NaN has to be kept by a comparison.
        together = t <= TINY
        apart = tl.where(together, 1.0, t)
        e = tl.where(together, 0.0, tl.exp(half * tl.log(apart)))
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


@triton.jit
def bends(t, scale_ptr, FAMILY: tl.constexpr, COUNT: tl.constexpr):
    """(p, q = p'(d) / d) of the squared distance t in float64; where the kernel is not smooth, zero at coincidence."""
    p = t * 0.0
    q = t * 0.0
    apart = t > 1e-200
    r = tl.rsqrt(tl.maximum(t, 1e-200))
    if FAMILY == "energy":
        p = tl.where(apart, -r, 0.0)
        q = -p * r * r
    elif FAMILY == "energy_power":
        half = tl.load(scale_ptr)
        e = tl.where(apart, tl.exp(half * tl.log(tl.maximum(t, 1e-200))), 0.0)
        p = -2.0 * half * e * r * r
        q = (2.0 * half - 2.0) * p * r * r
    else:
        for index in tl.static_range(COUNT):
            c = tl.load(scale_ptr + index)
            if FAMILY == "gaussian":
                e = 2.0 * c * tl.exp(-c * t)
                p -= e
                q += 2.0 * c * e
            elif FAMILY == "laplacian":
                e = tl.where(apart, c * r * tl.exp(-c * (t * r)), 0.0)
                p -= e
                q += e * r * (c + r)
            elif FAMILY == "inverse_multiquadric":
                e = tl.rsqrt(1.0 + c * c * t)
                p -= c * c * e * e * e
                q += 3.0 * c * c * c * c * e * e * e * e * e
            else:
                h = 1.0 + t / (2.0 * c)
                e = tl.exp(-c * tl.log(h)) / h
                p -= e
                q += (c + 1.0) / c * e / h
        p *= 1.0 / COUNT
        q *= 1.0 / COUNT
    return p, q


def cdiv(a: int, b: int) -> int:
    """a / b rounded up: `triton.cdiv` takes longer than a launch may."""
    return -(-a // b)


@lru_cache(maxsize=1024)
def split_columns(
    programs: int, m: int, device: torch.device, multiple: int = 1, resident: int = RESIDENT
) -> tuple[int, int]:
    """(parts, columns a part): programs for one wave over the device, or for several that leave little of it idle."""
    room = resident * processors(device)
    # Of the splits into 1, 2, 4, 8 waves, the first that fills nine tenths; the fullest where none does.
    counts = [max(1, waves * room // programs) for waves in (1, 2, 4, 8)]
    fill = [(count * programs / room) / cdiv(count * programs, room) for count in counts]
    count = next((count for count, full in zip(counts, fill, strict=True) if full > 0.9), counts[fill.index(max(fill))])
    columns = cdiv(max(LEAST_COLUMNS, cdiv(m, count)), multiple) * multiple
    return cdiv(m, columns), columns


@cache
def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@cache
def capability(device: torch.device) -> int:
    """The compute capability, as 90; 0 for Triton's interpreter."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def scales(family: str, constants: Sequence[float], like: Tensor) -> Tensor:
    """The constants as `profile` wants them; kept, since a copy to the device would stop the host and a graph."""
    if family == "energy" and constants[0] == 1.0:
        return like
    return on_device(tuple(_scale_values(family, constants)), like.dtype, like.device)


def _scale_values(family: str, constants: Sequence[float]) -> list[float]:
    if family == "energy":
        return [constants[0] / 2]
    if family == "gaussian":
        return [0.5 / s**2 for s in constants]
    if family in ("laplacian", "inverse_multiquadric"):
        return [1 / s for s in constants]
    return list(constants)
