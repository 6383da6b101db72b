"""Randomness as a function of (seed, purpose, index), never of what was drawn before or on which rank.

So a resumed training draws what the uninterrupted one would have drawn, and R ranks draw what one rank would.
"""

import zlib

import numpy as np
import torch


def stream(seed: int, purpose: str, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for every (seed, purpose, index)."""
    state = np.random.SeedSequence((seed, zlib.crc32(purpose.encode()), index)).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state >> np.uint64(1)))
