"""Backend `compiled`: the closed form of `tiled.py` through PyTorch's compiler, on CUDA devices as a CUDA graph.

For networks too wide for one program of the Triton backend, where the matrix products are the library's and what is
between them is fused. The first step of every shape compiles for tens of seconds; more than eight shapes in a process
(`torch._dynamo.config.recompile_limit`) run uncompiled.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from kantor_kernels.critic_step import tiled
from kantor_kernels.critic_step.problem import CriticStep, Loss, Perceptron, Rows


def critic_step(perceptron: Perceptron, rows: Rows, loss: Loss) -> CriticStep:
    """As the reference."""
    if rows.real.device.type != "cuda":
        return _by_compiler()(perceptron, rows, loss)
    torch.compiler.cudagraph_mark_step_begin()
    total, distance, penalty, norm_P, gradients = _by_compiler()(perceptron, rows, loss)
    # The next replay of the graph writes to the same memory.
    copies = tuple(gradient.clone() for gradient in gradients)
    return CriticStep(total.clone(), distance.clone(), penalty.clone(), norm_P.clone(), copies)


@cache
def _by_compiler() -> Any:
    return torch.compile(tiled.critic_step, dynamic=False, mode="reduce-overhead")
