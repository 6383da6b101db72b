"""The MPI world, or one rank where there is none: the only module that knows mpi4py.

The world is joined only when a launcher (mpiexec, srun) started this process, so that every command also runs alone.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kantor.errors import InputError, KantorError
from kantor.machine.progress import log

T = TypeVar("T")
_LAUNCHERS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID")


class Ranks:
    """This process among its equals: `rank` of `size`, and what they say to each other."""

    def __init__(self, communicator: Any = None) -> None:
        self._communicator = communicator
        self.rank: int = 0 if communicator is None else communicator.Get_rank()
        self.size: int = 1 if communicator is None else communicator.Get_size()

    @property
    def is_root(self) -> bool:
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Which of `count` equal pieces of work are this rank's, dealt like cards."""
        return range(self.rank, count, self.size)

    def gather(self, count: int, work: Callable[[int], T]) -> list[T]:
        """Do pieces 0 ... count - 1 on all ranks together; every rank gets all results, in order.

        The result does not depend on the number of ranks as long as `work` depends on its number only.
        """
        done = {piece: work(piece) for piece in self.mine(count)}
        if self._communicator is None:
            return [done[piece] for piece in range(count)]
        everyone: list[dict[int, T]] = self._communicator.allgather(done)
        return [everyone[piece % self.size][piece] for piece in range(count)]

    def in_turn(self, count: int, own: Iterator[T]) -> Iterator[T]:
        """The results of pieces 0 ... count - 1, in order, on the root; other ranks send theirs and get none.

        A rank goes on when the root has taken what it sends, so that no memory fills up. Its failure is raised on the
        root, which may have something half done to remove.

        Args:
            own: what this rank makes of its own pieces, in their order.
        """
        if not self.is_root:
            try:
                for made in own:
                    self._communicator.ssend(made, dest=0)
            except KantorError as error:
                self._communicator.ssend(error, dest=0)
            return
        for piece in range(count):
            source = piece % self.size
            made: Any = next(own) if source == 0 else self._communicator.recv(source=source)
            if isinstance(made, KantorError):
                raise made
            yield made

    def barrier(self) -> None:
        if self._communicator is not None:
            self._communicator.Barrier()

    def abort(self, code: int) -> None:
        """End all ranks: one that failed must not leave the others waiting."""
        if self._communicator is not None:
            self._communicator.Abort(code)


def world(expected: int | None = None) -> Ranks:
    """Join the MPI world.

    Raises:
        InputError: the world does not have the `expected` size. A launcher that does not fit the MPI library starts
            N worlds of one rank each, and nothing else would tell.
    """
    if any(name in os.environ for name in _LAUNCHERS):
        if "SLURM_JOB_ID" in os.environ:
            # MPICH's UCX sends addresses of several kB that end with what the memory held before. Compressed, some are
            # too long a line for SLURM's PMI, and the ranks wait for ever (MPICH 5.0.2, SLURM 22.05: 5 starts of 25).
            os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise InputError(
                f"an MPI launcher started this command, but MPI cannot be used: {error}",
                cure="install an MPI library (pip install mpich), or run the command without the launcher",
            ) from error
        ranks = Ranks(MPI.COMM_WORLD)
    else:
        ranks = Ranks()
    if ranks.is_root:
        log.info("one rank (no MPI launcher)" if ranks.size == 1 else f"{ranks.size} MPI ranks")
    if expected is not None and ranks.size != expected:
        raise InputError(
            f"the MPI world has {ranks.size} rank(s), not the expected {expected}",
            cure="use the launcher of the MPI library that mpi4py runs on; under SLURM: srun --mpi=pmi2",
        )
    return ranks
