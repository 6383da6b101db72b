"""Batches are functions of (seed, update, row) of the global batch."""

import pytest
import torch

from kantor.errors import InputError
from kantor.training.feed import Feed, Rows

N, B = 103, 16
ROWS = Rows(torch.arange(N, dtype=torch.float32)[:, None], torch.zeros(N, 0), torch.arange(N, dtype=torch.float32))


def feed(rank: int = 0, world: int = 1, seed: int = 1) -> Feed:
    return Feed(ROWS, batch=B, latent=3, seed=seed, rank=rank, world=world)


def test_an_epoch_shows_each_row_at_most_once() -> None:
    one = feed()
    seen = torch.cat([one.rows(update).real for update in range(N // B)]).flatten()
    assert len(seen.unique()) == len(seen) == N // B * B
    following = torch.cat([one.rows(update).real for update in range(N // B, 2 * (N // B))]).flatten()
    assert not torch.equal(seen, following)


def test_weights_stay_with_their_rows() -> None:
    rows = feed().rows(5)
    assert rows.weights is not None
    assert torch.equal(rows.real[:, 0], rows.weights)


@pytest.mark.parametrize("what", ["noise", "eps"])
def test_ranks_share_the_global_batch(what: str) -> None:
    one = feed()
    for update in (0, 7, 1000):
        parts = [feed(rank, 4) for rank in range(4)]
        assert torch.equal(getattr(one, what)(update), torch.cat([getattr(part, what)(update) for part in parts]))
        assert torch.equal(one.rows(update).real, torch.cat([part.rows(update).real for part in parts]))


def test_draws_of_an_event_are_independent_and_shared() -> None:
    one, parts = feed(), [feed(rank, 4) for rank in range(4)]
    assert torch.equal(one.noise(7, 1), torch.cat([part.noise(7, 1) for part in parts]))
    assert torch.equal(one.noise(7, 0), one.noise(7))
    assert not torch.equal(one.noise(7, 1), one.noise(7))


def test_ranks_share_dropout_and_instance_noise() -> None:
    one, parts = feed(), [feed(rank, 4) for rank in range(4)]
    assert one.dropout(3, 5).shape == (B, 5)
    assert torch.equal(one.dropout(3, 5), torch.cat([part.dropout(3, 5) for part in parts]))
    for sample in (0, 1):
        together = torch.cat([part.instance_noise(3)[sample] for part in parts])
        assert torch.equal(one.instance_noise(3)[sample], together)
    real, fake = one.instance_noise(3)
    assert real.shape == fake.shape == (B, 1)
    assert not torch.equal(real, fake)


def test_order_of_asking_does_not_matter() -> None:
    backwards = feed()
    late, early = backwards.rows(50).real, backwards.rows(2).real
    assert torch.equal(early, feed().rows(2).real)
    assert torch.equal(late, feed().rows(50).real)
    assert not torch.equal(feed().noise(1), feed().noise(2))
    assert not torch.equal(feed(seed=2).noise(1), feed().noise(1))


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(InputError, match="batch = 128 is larger than the training split, which has 103 rows"):
        Feed(ROWS, batch=128, latent=3, seed=1)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match="16 cannot be shared evenly: 3 workers"):
        feed(0, 3)
    with pytest.raises(InputError, match=r"16 .* 2 workers with whole groups of 16 rows .*\n.*a multiple of 32"):
        Feed(ROWS, batch=B, latent=3, seed=1, rank=0, world=2, group=16)
