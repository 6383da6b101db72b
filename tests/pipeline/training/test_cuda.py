"""The family on a CUDA device: every case trains there, and bfloat16 changes the losses by its precision alone."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from kantor.config import Training
from kantor.losses import Batch
from kantor.training import loop
from kantor.training.assembly import Assembly, assemble
from kantor.training.feed import Feed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
CRITIC = {"width": 16, "depth": 2}
CASES: dict[str, dict[str, Any]] = {
    "ns_gan": {"objective": {"kind": "ns_gan"}, "critic": CRITIC | {"minibatch_std": 8}},
    "sn_gan": {"objective": {"kind": "sn_gan"}, "critic": CRITIC | {"spectral_norm": True}},
    "wgan": {"objective": {"kind": "wgan"}, "critic_optimiser": {"kind": "rmsprop"}},
    "wgan_gp": {"objective": {"kind": "wgan_gp"}},
    "wgan_gp, layer norm": {"objective": {"kind": "wgan_gp"}, "critic": CRITIC | {"residual": True, "norm": "layer"}},
    "wgan_gp, dropout": {"objective": {"kind": "wgan_gp"}, "critic": CRITIC | {"dropout": 0.2}},
    "cramer": {"objective": {"kind": "cramer", "embedding": 8}},
    "cramer, all pairs": {"objective": {"kind": "cramer", "pairs": "all", "embedding": 8}},
    "r3gan": {"objective": {"kind": "r3gan"}},
    "cramer, r1r2": {"objective": {"kind": "cramer", "embedding": 8, "penalty": {"kind": "r1r2", "weight": 1.0}}},
    "mmd_gan, scaled": {"objective": {"kind": "mmd_gan", "embedding": 4, "scaled": 1.0}},
    "energy": {"objective": {"kind": "energy"}, "n_critic": 0},
    "engression": {"objective": {"kind": "engression"}, "n_critic": 0},
    "terms": {
        "objective": {"kind": "wgan_gp"},
        "instance_noise": {"deviation": 0.1},
        "terms": [{"kind": "mmd"}, {"kind": "mmd", "estimator": "linear"}, {"kind": "constrainer", "steps": 20}],
    },
}


def prepared(small_training: Training, manifest: Path, case: str, **changes: Any) -> tuple[Assembly, Feed]:
    settings = Training.model_validate(small_training.model_dump() | {"steps": 4} | CASES[case] | changes)
    assembly = assemble(settings, 1, manifest, DEVICE)
    return assembly, Feed(assembly.rows, batch=settings.batch, latent=settings.generator.latent, seed=1)


def losses(assembly: Assembly, feed: Feed) -> list[float]:
    found: list[float] = []
    loop.train(
        assembly.settings,
        assembly.state,
        assembly.objective,
        feed,
        assembly.view,
        lambda _, last: found.extend(last.joined()),
    )
    return [value for value in found if not math.isnan(value)]


@pytest.mark.parametrize("case", CASES)
def test_every_case_trains_and_bfloat16_stays_close(
    case: str, small_training: Training, weighted_manifest: Path
) -> None:
    single = losses(*prepared(small_training, weighted_manifest, case))
    again = losses(*prepared(small_training, weighted_manifest, case))
    half = losses(*prepared(small_training, weighted_manifest, case, autocast="bfloat16"))
    assert single == pytest.approx(again, rel=1e-4, abs=1e-5)
    assert half == pytest.approx(single, rel=0.1, abs=0.1)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_the_processor(case: str, small_training: Training, weighted_manifest: Path) -> None:
    assembly, feed = prepared(small_training, weighted_manifest, case, precision="float64")
    # Neither dropout nor another step of the spectral norms between the two.
    state = assembly.state
    state.critic.eval()
    batch = loop._next_batch(assembly.settings, state, feed, assembly.view, state.generator)
    found = []
    for device in (DEVICE, "cpu"):
        state.critic.to(device)
        state.terms.to(device)
        there: dict[str, Any] = {
            name: value.detach().to(device) if isinstance(value, torch.Tensor) else value
            for name, value in vars(batch).items()
        }
        found.append(values(assembly, Batch(**there)))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def values(assembly: Assembly, batch: Batch) -> list[float]:
    """The losses of critic (if there is one) and generator, terms included."""
    state, objective = assembly.state, assembly.objective
    total = objective.generator_loss(state.critic, batch)
    for term in state.terms:
        total = total + term(state.critic, batch)
    if objective.outputs == 0:
        return [total.item()]
    return [total.item(), objective.critic_loss(state.critic, batch).loss.item()]
