"""The benchmark of a whole generator step: critic updates, generator update, average; nothing that waits for a disk."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim

from kantor.benchmark import jax_step
from kantor.config import Training
from kantor.losses import Objective, make_objective
from kantor.models.features import CriticFeatures
from kantor.models.networks.perceptron import PerceptronCritic, PerceptronGenerator
from kantor.models.transforms import Transforms
from kantor.training.feed import Feed, Rows
from kantor.training.loop import Maintenance, train
from kantor.training.state import State
from kantor_kernels.benchmark import Case, Contender
from kantor_kernels.benchmark.opponents import eager_critic_loss
from kantor_kernels.testing import assert_close

Draw = Callable[[], tuple[Tensor, Tensor, Tensor]]
OPERATION = "training_step"
_JAX = "JAX"
ROWS = 60_000
N_CRITIC = 5


@dataclass(frozen=True)
class StepCase(Case):
    """One generator step of WGAN-GP with n_critic 5 at a batch of `size`."""

    features: int = 8
    width: int = 128
    depth: int = 4
    latent: int = 64

    op = OPERATION
    updates = N_CRITIC + 1
    mode = "5 critic updates, 1 generator update"

    @property
    def case(self) -> str:
        return f"WGAN-GP, latent {self.latent}, {self.width}x{self.depth} nets"

    @property
    def shape(self) -> str:
        return f"B = {self.size}, D = {self.features}"

    @property
    def objective(self) -> dict[str, object]:
        """As a configuration has it."""
        return {"kind": "wgan_gp"}

    def contenders(self, device: torch.device) -> list[Contender]:
        """Kantor's loop, the step as most public code has it, both with PyTorch's fused Adam, and the step in JAX."""
        ours = self.training(device, "float32")
        rows = self._rows(device, torch.float32).real
        missing = jax_step.missing() or ("" if device.type == "cpu" else "measured on CPUs alone")
        jax = None if missing else self._jax(ours.state, rows)

        def draw() -> tuple[Tensor, Tensor, Tensor]:
            index = torch.randint(ROWS, (self.size,), device=device)
            noise = torch.randn(self.size, self.latent, device=device)
            return rows[index], noise, torch.rand(self.size, 1, device=device)

        theirs = _Eager(ours.state)
        return [
            Contender("kantor", True, ours.step),
            Contender("double backward", False, lambda: theirs.step(draw)),
            Contender(_JAX, False, (lambda: ()) if jax is None else jax.step, missing=missing),
        ]

    def check(self, contender: Contender, device: torch.device) -> None:
        """In float64, from the same start on the same batches, both end with the same weights."""
        contender.call()
        ours = self.training(device, "float64")
        feed = self._feed(device, torch.float64)
        batches = [(feed.rows(k).real, feed.noise(k), feed.eps(k)) for k in range(self.updates)]
        if contender.name == _JAX:
            theirs = self._jax(ours.state, feed.rows(0).real).step_on(batches)
        else:
            eager = _Eager(ours.state)
            drawn = iter(batches)
            eager.step(lambda: next(drawn))
            theirs = (list(eager.critic.parameters()), list(eager.generator.parameters()))
        ours.step()
        _assert_same(ours.state, theirs)

    def _jax(self, state: State, rows: Tensor) -> jax_step.JaxStep:
        assert isinstance(state.critic, PerceptronCritic)
        assert isinstance(state.generator, PerceptronGenerator)
        return jax_step.JaxStep(
            state.critic.layers,
            state.generator.layers,
            state.critic_optimiser,
            state.generator_optimiser,
            rows,
            size=self.size,
            latent=self.latent,
            updates=self.updates,
        )

    def training(self, device: torch.device, precision: str, rank: int = 0, world: int = 1) -> "Ours":
        """A training of Kantor's own, at its start, on a rank's part of every batch."""
        settings = self._settings(precision)
        objective = make_objective(settings.objective)
        state = State.fresh(
            settings,
            features=self.features,
            critic_features=self.features,
            conditions=(),
            objective=objective,
            seed=1,
            device=device,
        )
        view = CriticFeatures({}, Transforms([], {}), Transforms([], {}))
        return Ours(settings, state, objective, self._feed(device, getattr(torch, precision), rank, world), view)

    def _settings(self, precision: str) -> Training:
        network = {"width": self.width, "depth": self.depth}
        return Training.model_validate(
            {
                "dataset": "benchmark",
                "objective": self.objective,
                "n_critic": N_CRITIC,
                "batch": self.size,
                "critic": network,
                "generator": network | {"latent": self.latent},
                "precision": precision,
            }
        )

    def _rows(self, device: torch.device, dtype: torch.dtype) -> Rows:
        real = torch.randn(ROWS, self.features, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        return Rows(real, real.new_empty(ROWS, 0), None)

    def _feed(self, device: torch.device, dtype: torch.dtype, rank: int = 0, world: int = 1) -> Feed:
        rows = self._rows(device, dtype)
        return Feed(rows, batch=self.size, latent=self.latent, seed=1, rank=rank, world=world)


@dataclass(frozen=True)
class Ours:
    """Kantor's own loop, as far as one likes."""

    settings: Training
    state: State
    objective: Objective
    feed: Feed
    view: CriticFeatures

    def step(self) -> tuple[Tensor, ...]:
        self.steps(1)
        return ()

    def steps(self, count: int, maintain: Maintenance = lambda *_: None) -> None:
        """`count` generator steps."""
        more = self.settings.model_copy(update={"steps": self.state.step + count})
        train(more, self.state, self.objective, self.feed, self.view, maintain)


class _Eager:
    """The same step as one writes it today: eager PyTorch, the penalty by double backward, no average.

    It starts from the same weights, with the same settings of fused Adam.
    """

    def __init__(self, state: State) -> None:
        assert isinstance(state.critic, PerceptronCritic)
        assert isinstance(state.generator, PerceptronGenerator)
        self.critic, self.generator = (copy.deepcopy(net.layers) for net in (state.critic, state.generator))
        self.critic_optimiser = self._adam(self.critic, state.critic_optimiser)
        self.generator_optimiser = self._adam(self.generator, state.generator_optimiser)

    def step(self, draw: Draw) -> tuple[Tensor, ...]:
        for _ in range(N_CRITIC):
            real, noise, eps = draw()
            with torch.no_grad():
                fake = self.generator(noise)
            self.critic_optimiser.zero_grad()
            eager_critic_loss(self.critic, real, fake, eps).backward()
            self.critic_optimiser.step()
        self.critic.requires_grad_(False)
        _, noise, _ = draw()
        self.generator_optimiser.zero_grad()
        (-self.critic(self.generator(noise)).mean()).backward()
        self.generator_optimiser.step()
        self.critic.requires_grad_(True)
        return ()

    def _adam(self, module: nn.Module, like: optim.Optimizer) -> optim.Adam:
        (group,) = like.param_groups
        return optim.Adam(module.parameters(), lr=group["lr"], betas=group["betas"], fused=True)


@dataclass(frozen=True)
class AllPairsCase(StepCase):
    """One generator step of a Cramér GAN that compares all pairs of embeddings, beside one that compares partners."""

    embedding: int = 16

    @property
    def case(self) -> str:
        return f"Cramér, all pairs, embedding {self.embedding}, latent {self.latent}, {self.width}x{self.depth} nets"

    @property
    def objective(self) -> dict[str, object]:
        return {"kind": "cramer", "embedding": self.embedding, "pairs": "all"}

    def contenders(self, device: torch.device) -> list[Contender]:
        """Kantor's loop, and the same with what all pairs are to cost little more than."""
        partners = _Partners(**vars(self))
        return [
            Contender("kantor", True, self.training(device, "float32").step),
            Contender("kantor, partners", False, partners.training(device, "float32").step),
        ]

    def check(self, contender: Contender, device: torch.device) -> None:
        """In float64, autograd ends with the same weights."""
        contender.call()
        closed, graph = (self.training(device, "float64") for _ in range(2))
        # With a hook, a critic is none that the closed form may take.
        assert isinstance(graph.state.critic, PerceptronCritic)
        graph.state.critic.layers.register_forward_hook(lambda *_: None)
        closed.step()
        graph.step()
        _assert_same(closed.state, [list(net.parameters()) for net in (graph.state.critic, graph.state.generator)])


class _Partners(AllPairsCase):
    @property
    def objective(self) -> dict[str, object]:
        return {"kind": "cramer", "embedding": self.embedding}


def _assert_same(state: State, theirs: Sequence[Sequence[Tensor]]) -> None:
    """The parameters of critic and generator."""
    for name, net, other in zip(("critic", "generator"), (state.critic, state.generator), theirs, strict=True):
        for one, two in zip(net.parameters(), other, strict=True):
            assert_close(name, one, two, rtol=1e-6, atol=1e-8)


CASES = (*map(StepCase, (64, 512, 4096)), *(AllPairsCase(512, embedding=width) for width in (16, 64)))
