"""A script: one rank of several trainings, whose gradients and weights `test_ranks` compares.

Arguments: training settings (a JSON object of name -> settings), manifests (one of dataset -> path), output file, rank,
world size, rendezvous file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kantor.config import Training, parse
from kantor.training import loop
from kantor.training.assembly import assemble
from kantor.training.feed import Feed


def main(
    trainings: dict[str, Training], manifests: dict[str, str], out: Path, rank: int, world: int, rendezvous: str
) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    results = {
        name: one(settings, Path(manifests[settings.dataset]), rank, world) for name, settings in trainings.items()
    }
    if rank == 0:
        torch.save(results, out)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def one(settings: Training, manifest: Path, rank: int, world: int) -> dict[str, Any]:
    """Gradients of the first batch, then the weights and all losses of a short training."""
    assembly = assemble(settings, 1, manifest)
    state, objective, view = assembly.state, assembly.objective, assembly.view
    feed = Feed(
        assembly.rows,
        batch=settings.batch,
        latent=settings.generator.latent,
        seed=1,
        rank=rank,
        world=world,
        group=settings.group,
    )

    critic, generator = loop._parallel(state.critic), loop._parallel(state.generator)
    computed_by = ""
    if objective.outputs:
        with torch.no_grad():
            batch = loop._next_batch(settings, state, feed, view, state.generator)
        critic_loss = objective.critic_loss(critic, batch).loss
        critic_loss.backward()
        computed_by = type(critic_loss.grad_fn).__name__
    with loop._frozen(state.critic):
        batch = loop._next_batch(settings, state, feed, view, generator)
        loss = objective.generator_loss(state.critic, batch)
        sum((term(state.critic, batch) for term in state.terms), loss).backward()
    result: dict[str, Any] = {
        "computed by": computed_by,
        "critic gradient": flat([p.grad for p in state.critic.parameters()]),
        "generator gradient": flat([p.grad for p in state.generator.parameters()]),
    }

    joined: list[float] = []
    loop.train(settings, state, objective, feed, view, lambda _, last: joined.extend(last.joined()))
    return result | {
        "critic": flat(list(state.critic.parameters())),
        "generator": flat(list(state.generator.parameters())),
        "losses": torch.tensor(joined, dtype=torch.float64).nan_to_num(),
    }


def flat(tensors: list[Tensor | None]) -> Tensor:
    return torch.cat([torch.empty(0), *(tensor.detach().flatten() for tensor in tensors if tensor is not None)])


if __name__ == "__main__":
    text, manifests, out, rank, world, rendezvous = sys.argv[1:]
    trainings = {name: parse(Training, settings, "argument") for name, settings in json.loads(text).items()}
    main(trainings, json.loads(manifests), Path(out), int(rank), int(world), rendezvous)
