"""Pieces of the loop by themselves."""

import pytest
import torch
from torch import nn, optim

from kantor.errors import TrainingError
from kantor.training.descent import descend


def step(scale: float, clip_norm: float | None) -> torch.Tensor:
    """What one step of plain gradient descent with learning rate 1 adds, for a gradient of norm 5 x scale."""
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    optimiser = optim.SGD(layer.parameters(), lr=1.0)
    loss = scale * (layer(torch.tensor([[3.0, 4.0]]))).sum()
    descend(loss, optimiser, clip_norm, "step 3, critic update 2")
    return (layer.weight - before).detach()


def test_long_gradients_are_scaled_down_and_short_ones_left() -> None:
    assert torch.allclose(step(1.0, None), torch.tensor([[-3.0, -4.0]]))
    assert torch.allclose(step(1.0, 0.5), torch.tensor([[-0.3, -0.4]]), atol=1e-6)
    assert torch.allclose(step(0.01, 0.5), torch.tensor([[-0.03, -0.04]]), atol=1e-6)


def test_clipping_does_not_hide_what_is_not_finite() -> None:
    with pytest.raises(TrainingError, match=r"step 3, critic update 2: loss .* gradient norm inf"):
        step(float("inf"), 0.5)
