"""The optimisers: Adam without bookkeeping is Adam."""

from copy import deepcopy

import pytest
import torch
from torch import nn, optim

from kantor.config import Adam
from kantor.training.optimisers import FusedAdam, make_optimiser

SETTINGS = Adam(learning_rate=1e-2, betas=(0.5, 0.9))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 17), nn.ReLU(), nn.Linear(17, 2))


def descend(module: nn.Module, optimiser: optim.Optimizer, steps: int, start: int = 0) -> None:
    for k in range(start, start + steps):
        module.zero_grad()
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(k), dtype=next(module.parameters()).dtype)
        module(x).square().sum().backward()
        optimiser.param_groups[0]["lr"] = 1e-2 / (1 + k)
        optimiser.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_has_the_bits_of_pytorch_s_through_checkpoints_and_copies(dtype: torch.dtype) -> None:
    ours, theirs = net().to(dtype), net().to(dtype)
    adam = make_optimiser(ours, SETTINGS)
    assert isinstance(adam, FusedAdam)
    plain = optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True)
    descend(ours, adam, 4)
    descend(theirs, plain, 4)

    again = net().to(dtype)
    again.load_state_dict(ours.state_dict())
    resumed = make_optimiser(again, SETTINGS)
    descend(again, resumed, 2)  # a state that is not that of the checkpoint
    again.load_state_dict(ours.state_dict())
    resumed.load_state_dict(deepcopy(adam.state_dict()))
    descend(again, resumed, 3, start=4)

    copied, its = deepcopy((ours, adam))
    descend(ours, adam, 3, start=4)
    descend(copied, its, 3, start=4)
    descend(theirs, plain, 3, start=4)
    for other in (again, copied, theirs):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))
    assert adam.state_dict()["state"][0].keys() == plain.state_dict()["state"][0].keys()
    assert adam.state_dict()["state"][0]["step"] == 7


def test_nothing_to_descend_is_nothing_done() -> None:
    make_optimiser(nn.Sequential(), SETTINGS).step()
