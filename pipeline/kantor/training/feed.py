"""Batches: which rows, which noise, which interpolation, as functions of (seed, update, row) of the global batch.

Rank k takes its rows of the global batch, so the number of ranks changes nothing but rounding. The whole split lies
in memory (or on the GPU); a batch is an index selection.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kantor.errors import InputError
from kantor.models.randomness import stream


@dataclass(frozen=True)
class Rows:
    """Training rows as the networks see them. Shapes: N rows, D critic features, C conditions."""

    real: Tensor  # (N, D)
    conditions: Tensor  # (N, C)
    weights: Tensor | None  # (N,)

    def select(self, index: Tensor) -> "Rows":
        weights = None if self.weights is None else self.weights[index]
        return Rows(self.real[index], self.conditions[index], weights)


class Feed:
    """This rank's part of every global batch.

    Args:
        rows: the whole training split, the same on every rank.
        batch: rows of the global batch.
        group: rows that have to stay on one rank, if more than a pair.

    Raises:
        InputError: the batch is larger than the split, or the ranks cannot share its pairs of rows evenly.
    """

    def __init__(
        self, rows: Rows, *, batch: int, latent: int, seed: int, rank: int = 0, world: int = 1, group: int = 0
    ) -> None:
        check_batch(batch, len(rows.real), world, group)
        self._rows, self._batch, self._latent, self._seed = rows, batch, latent, seed
        share = batch // world
        self._mine = slice(rank * share, (rank + 1) * share)
        self._updates_per_epoch = len(rows.real) // batch
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def rows(self, update: int) -> Rows:
        """The real rows of an update: without replacement within an epoch."""
        epoch, position = divmod(update, self._updates_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(
                len(self._rows.real), generator=self._stream("order", epoch), device=self.device
            )
        index = self._order[position * self._batch : (position + 1) * self._batch]
        return self._rows.select(index[self._mine])

    def noise(self, update: int, draw: int = 0) -> Tensor:
        """The generator's noise of an update, (B, latent), independent for each draw of an event."""
        return self._normal(f"noise {draw}" if draw else "noise", update, self._latent)

    def eps(self, update: int) -> Tensor:
        """Where between real and generated the gradient penalty is taken, (B, 1)."""
        return self._uniform("eps", update, 1)

    def dropout(self, update: int, units: int) -> Tensor:
        """Uniform numbers behind the critic's dropout masks, (B, units)."""
        return self._uniform("dropout", update, units)

    def instance_noise(self, update: int) -> tuple[Tensor, Tensor]:
        """Standard normal noise for real and for generated rows, both (B, D)."""
        real_BD, fake_BD = self._normal("instance noise", update, 2 * self._rows.real.shape[1]).chunk(2, dim=-1)
        return real_BD, fake_BD

    @property
    def device(self) -> torch.device:
        return self._rows.real.device

    def _normal(self, purpose: str, update: int, width: int) -> Tensor:
        shape, stream = (self._batch, width), self._stream(purpose, update)
        return torch.randn(shape, generator=stream, dtype=self._rows.real.dtype, device=self.device)[self._mine]

    def _uniform(self, purpose: str, update: int, width: int) -> Tensor:
        shape, stream = (self._batch, width), self._stream(purpose, update)
        return torch.rand(shape, generator=stream, dtype=self._rows.real.dtype, device=self.device)[self._mine]

    def _stream(self, purpose: str, index: int) -> torch.Generator:
        return stream(self._seed, purpose, index, self.device)


def check_batch(batch: int, rows: int, world: int, group: int = 0) -> None:
    """Raise `InputError` unless the split fills a batch and the ranks share its pairs (or groups) of rows evenly."""
    if batch > rows:
        raise InputError(
            f"batch = {batch} is larger than the training split, which has {rows} rows",
            cure="lower 'batch', or stage more events",
        )
    if batch % (2 * world):
        raise InputError(
            f"batch = {batch} cannot be shared evenly: {world} workers with whole pairs of rows",
            cure=f"make 'batch' a multiple of {2 * world}, or change the number of workers",
        )
    if group and batch % (group * world):
        raise InputError(
            f"batch = {batch} cannot be shared evenly: {world} workers with whole groups of {group} rows "
            "(critic.minibatch_std, or pairs of critic.pack)",
            cure=f"make 'batch' a multiple of {group * world}, or change the number of workers",
        )
