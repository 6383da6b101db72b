"""The critic's updates in one compiled call are the same updates one by one."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kantor.benchmark.step import Ours, StepCase
from kantor.errors import TrainingError
from kantor.training import loop


@dataclass(frozen=True)
class Case(StepCase):
    """A small one of any objective."""

    kind: str = "wgan_gp"

    @property
    def objective(self) -> dict[str, object]:
        kind, _, critic = self.kind.partition(" ")
        return {"kind": kind, **({"critic": critic, "embedding": 3} if critic else {})}


def training(kind: str) -> Ours:
    return Case(16, width=9, depth=2, latent=4, kind=kind).training(torch.device("cpu"), "float64")


@pytest.mark.parametrize("kind", ["wgan_gp", "cramer energy", "cramer surrogate"])
def test_at_once_is_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[list[Tensor], list[float]]] = []
    taken: list[bool] = []
    known = loop.descend_at_once
    monkeypatch.setattr(loop, "descend_at_once", lambda *parts: taken.append(True) or known(*parts))
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(loop, "can_descend_at_once", lambda *_: False)
        ours, losses = training(kind), []
        ours.steps(3, lambda _, last, losses=losses: losses.extend(last.joined()))
        state = ours.state
        moments = [each for p in state.critic.parameters() for each in state.critic_optimiser.state[p].values()]
        found.append(([*state.critic.parameters(), *state.averaged.parameters(), *moments], losses))
        assert state.update == 3 * 6
    assert taken == [True] * 3
    (ours, losses), (theirs, others) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert losses == pytest.approx(others, rel=1e-9)


def test_the_update_that_is_not_finite_is_named_and_not_done() -> None:
    ours, before = training("wgan_gp"), training("wgan_gp")
    rows = ours.feed.rows(2)
    ours.feed._rows.real[(ours.feed._rows.real == rows.real[0]).all(1)] = torch.nan
    with pytest.raises(TrainingError, match=r"step 0, critic update 3: loss nan, gradient norm nan"):
        ours.step()
    two = before.settings.model_copy(update={"n_critic": 2})
    Ours(two, before.state, before.objective, before.feed, before.view).step()
    assert all(
        torch.equal(a, b) for a, b in zip(ours.state.critic.parameters(), before.state.critic.parameters(), strict=True)
    )
