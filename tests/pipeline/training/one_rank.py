"""A script: one rank of a training, whose gradients and weights `test_ranks` compares.

Arguments: training settings (JSON), manifest, output file, rank, world size, rendezvous file.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kantor.config import Training, parse
from kantor.training import loop
from kantor.training.assembly import assemble
from kantor.training.feed import Feed


def main(settings: Training, manifest: Path, out: Path, rank: int, world: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    assembly = assemble(settings, 1, manifest)
    state, objective, view = assembly.state, assembly.objective, assembly.view
    feed = Feed(assembly.rows, batch=settings.batch, latent=settings.generator.latent, seed=1, rank=rank, world=world)

    critic, generator = loop._parallel(state.critic), loop._parallel(state.generator)
    with torch.no_grad():
        batch = loop._batch(feed, 0, state.generator, view)
    critic_loss = objective.critic_loss(critic, batch).loss
    critic_loss.backward()
    with loop._frozen(state.critic):
        objective.generator_loss(state.critic, loop._batch(feed, 1, generator, view)).backward()
    result: dict[str, Any] = {
        "computed by": type(critic_loss.grad_fn).__name__,
        "critic gradient": flat([p.grad for p in state.critic.parameters()]),
        "generator gradient": flat([p.grad for p in state.generator.parameters()]),
    }

    joined: list[float] = []
    loop.train(settings, state, objective, feed, view, lambda _, last: joined.extend(last.joined()))
    result |= {
        "critic": flat(list(state.critic.parameters())),
        "generator": flat(list(state.generator.parameters())),
        "losses": torch.tensor(joined, dtype=torch.float64),
    }
    if rank == 0:
        torch.save(result, out)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def flat(tensors: list[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors if tensor is not None])


if __name__ == "__main__":
    text, manifest, out, rank, world, rendezvous = sys.argv[1:]
    main(parse(Training, text, "argument"), Path(manifest), Path(out), int(rank), int(world), rendezvous)
