"""Several critic updates in one call are as many single ones, with PyTorch's Adam."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from kantor_kernels.critic_step import AdamState, Descent, mlp_critic_descent, mlp_critic_step

U, B, D, C = 4, 22, 3, 2


def critic(outputs: int, dtype: torch.dtype = torch.float64, *, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(D + C, 19), nn.LeakyReLU(0.2), nn.Linear(19, 33), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(33, outputs, bias=bias)).to(dtype)


def batches(loss: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    points = B // 2 if loss == "energy" else B
    g = torch.Generator().manual_seed(1)
    draw = {"real": (U, B, D), "fake": (U, B, D), "conditions": (U, B, C), "coefficients": (U, points)}
    found: dict[str, Any] = {name: torch.randn(shape, generator=g, dtype=dtype) for name, shape in draw.items()}
    found["coefficients"] /= points
    if loss != "energy":
        found["fake_coefficients"] = found["coefficients"].flip(1)
    found["penalty_coefficients"] = found["coefficients"].abs()
    return found | {"eps": torch.rand(U, points, generator=g, dtype=dtype)}


def fresh(net: nn.Module, steps: int = 0) -> AdamState:
    means, squares = ([torch.zeros_like(p) for p in net.parameters()] for _ in range(2))
    return AdamState(means, squares, steps, 1e-2, (0.5, 0.9))


def one_by_one(net: nn.Sequential, rows: dict[str, Any], loss: str) -> tuple[optim.Adam, list[Tensor]]:
    adam = optim.Adam(net.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True)
    losses = []
    for u in range(U):
        step = mlp_critic_step(net, **{name: value[u] for name, value in rows.items()}, loss=loss, weight=3.0)
        for p, g in zip(net.parameters(), step.gradients, strict=True):
            p.grad = g
        adam.step()
        losses.append(step.loss)
    return adam, losses


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("loss", ["wasserstein", "energy", "surrogate"])
def test_all_at_once_is_one_by_one(loss: str, backend: str) -> None:
    outputs = 1 if loss == "wasserstein" else 5
    # The other losses do not feel a bias of the outputs: its gradient is rounding, which Adam scales up.
    ours, theirs = (critic(outputs, bias=loss == "surrogate") for _ in range(2))
    rows = batches(loss)
    adam = fresh(ours)
    found = mlp_critic_descent(ours, adam=adam, **rows, loss=loss, weight=3.0, backend=backend)
    plain, losses = one_by_one(theirs, rows, loss)
    assert found.updates == U
    torch.testing.assert_close(found.losses, torch.stack(losses), rtol=1e-10, atol=1e-12)
    state = [plain.state[p] for p in theirs.parameters()]
    for one, other in (
        (list(ours.parameters()), list(theirs.parameters())),
        (adam.means, [s["exp_avg"] for s in state]),
        (adam.squares, [s["exp_avg_sq"] for s in state]),
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


def test_it_goes_on_where_it_stopped_and_threads_change_nothing() -> None:
    rows = batches("wasserstein", torch.float32)
    whole, parts = critic(1, torch.float32), critic(1, torch.float32)
    adam, its = fresh(whole), fresh(parts)
    mlp_critic_descent(whole, adam=adam, **rows)
    for first, last in ((0, 1), (1, U)):
        some = {name: value[first:last] for name, value in rows.items()}
        mlp_critic_descent(parts, adam=AdamState(its.means, its.squares, first, 1e-2, (0.5, 0.9)), **some)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_is_not_finite_is_not_stepped_with(backend: str) -> None:
    rows = batches("wasserstein")
    rows["real"][2, 5, 1] = torch.nan
    net, other = critic(1), critic(1)
    found = mlp_critic_descent(net, adam=fresh(net), **rows, backend=backend)
    assert found.updates == 2
    assert not found.losses[2].isfinite()
    mlp_critic_descent(other, adam=fresh(other), **{name: value[:2] for name, value in rows.items()}, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_what_does_not_fit_is_refused() -> None:
    net, rows = critic(1), batches("wasserstein")
    with pytest.raises(ValueError, match=r"\(U, B, D\)"):
        mlp_critic_descent(net, adam=fresh(net), **rows | {"eps": rows["eps"][:2]})
    beyond = rows["eps"].clone()
    beyond[2, 0] = 3.0
    with pytest.raises(ValueError, match="eps"):
        mlp_critic_descent(net, adam=fresh(net), **rows | {"eps": beyond})
    with pytest.raises(ValueError, match="moments"):
        mlp_critic_descent(net, adam=fresh(critic(2)), **rows)
    bent = nn.Sequential(nn.Linear(D + C, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    with pytest.raises(ValueError, match="straight"):
        mlp_critic_descent(bent, adam=fresh(bent), **rows, backend="cpu")


def test_its_result_names_what_it_is() -> None:
    assert Descent._fields[:2] == ("updates", "losses")
