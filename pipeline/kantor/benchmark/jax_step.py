"""A whole generator step in JAX: one compiled call, as its users write it. Never a dependency.

Shapes: B rows, D features, L latent dimensions, U updates (critic's, then the generator's one), N rows of the data.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn, optim

# Rows of the data, noise and interpolation of the U updates: (U, B, D), (U, B, L), (U, B, 1).
Batches = tuple[Any, Any, Any]


def missing() -> str:
    """Why JAX cannot be measured here, if it cannot."""
    names = [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(names)}" if names else ""


class JaxStep:
    """WGAN-GP's step, `lax.scan` over the critic's updates in one `jax.jit`, Adam from optax.

    Args:
        critic, generator: perceptrons to start from, linear layers with LeakyReLU between them.
        critic_optimiser, generator_optimiser: whose settings optax takes.
        rows: (N, D), what batches are drawn from.
        size: B, rows of a batch.
        latent: L.
        updates: U, the generator's one among them.
        weight: of the gradient penalty.
    """

    def __init__(
        self,
        critic: nn.Sequential,
        generator: nn.Sequential,
        critic_optimiser: optim.Optimizer,
        generator_optimiser: optim.Optimizer,
        rows: Tensor,
        *,
        size: int,
        latent: int,
        updates: int,
        weight: float = 10.0,
    ) -> None:
        self._jax: Any = importlib.import_module("jax")
        self._optax: Any = importlib.import_module("optax")
        self._size, self._latent, self._updates, self._weight = size, latent, updates, weight
        self._double = rows.dtype == torch.float64
        (self._slope,) = {layer.negative_slope for layer in critic if isinstance(layer, nn.LeakyReLU)}
        with self._precision():
            self._adams = tuple(self._adam(optimiser) for optimiser in (critic_optimiser, generator_optimiser))
            self._rows = self._array(rows)
            networks = [self._layers(net) for net in (critic, generator)]
            moments = [adam.init(layers) for adam, layers in zip(self._adams, networks, strict=True)]
            self._state: Any = (*zip(networks, moments, strict=True), self._jax.random.key(0))

    def step(self) -> tuple[()]:
        """A step on batches that are drawn in the same call."""
        self._state = self._jax.block_until_ready(self._drawing(self._state, self._rows))
        return ()

    def step_on(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        """A step on given batches (rows, noise, eps); parameters of critic and generator in PyTorch's order."""
        with self._precision():
            stacked = tuple(self._array(torch.stack(parts)) for parts in zip(*batches, strict=True))
            critic, generator = self._jax.jit(self._whole)(self._state[0], self._state[1], stacked)
        tree = self._jax.tree_util
        critics, generators = (
            [torch.tensor(p.tolist(), dtype=torch.float64) for p in tree.tree_leaves(net)]
            for net, _ in (critic, generator)
        )
        return critics, generators

    @cached_property
    def _drawing(self) -> Callable[[Any, Any], Any]:
        random, size = self._jax.random, self._size

        def step(state: Any, rows: Any) -> Any:
            critic, generator, key = state
            key, *keys = random.split(key, 4)
            index = random.randint(keys[0], (self._updates, size), 0, len(rows))
            noise = random.normal(keys[1], (self._updates, size, self._latent), rows.dtype)
            eps = random.uniform(keys[2], (self._updates, size, 1), rows.dtype)
            return *self._whole(critic, generator, (rows[index], noise, eps)), key

        return self._jax.jit(step, donate_argnums=0)

    def _whole(self, critic: Any, generator: Any, batches: Batches) -> tuple[Any, Any]:
        """All updates; a network is its layers and the moments of Adam."""
        tree, grad = self._jax.tree_util, self._jax.grad

        def critic_update(critic: Any, batch: Batches) -> tuple[Any, None]:
            real, noise, eps = batch
            fake = self._forward(generator[0], noise)
            gradient = grad(self._critic_loss)(critic[0], real, fake, eps)
            return self._update(critic, gradient, self._adams[0]), None

        def generator_loss(layers: Any, noise: Any) -> Any:
            return -self._forward(critic[0], self._forward(layers, noise)).mean()

        critic, _ = self._jax.lax.scan(critic_update, critic, tree.tree_map(lambda part: part[:-1], batches))
        gradient = grad(generator_loss)(generator[0], batches[1][-1])
        return critic, self._update(generator, gradient, self._adams[1])

    def _critic_loss(self, layers: Any, real: Any, fake: Any, eps: Any) -> Any:
        numpy = self._jax.numpy
        slope = self._jax.grad(lambda x: self._forward(layers, x).sum())(eps * real + (1 - eps) * fake)
        penalty = numpy.square(numpy.linalg.norm(slope, axis=1) - 1).mean()
        both = self._forward(layers, numpy.concatenate([real, fake]))
        return both[len(real) :].mean() - both[: len(real)].mean() + self._weight * penalty

    def _forward(self, layers: Any, x: Any) -> Any:
        for k, layer in enumerate(layers):
            x = x @ layer[0].T + (layer[1] if len(layer) > 1 else 0)
            if k < len(layers) - 1:
                x = self._jax.nn.leaky_relu(x, self._slope)
        return x

    def _update(self, network: Any, gradient: Any, adam: Any) -> Any:
        layers, moments = network
        change, moments = adam.update(gradient, moments)
        return self._optax.apply_updates(layers, change), moments

    def _adam(self, optimiser: optim.Optimizer) -> Any:
        (group,) = optimiser.param_groups
        return self._optax.adam(group["lr"], *group["betas"], group["eps"])

    def _layers(self, net: nn.Sequential) -> list[list[Any]]:
        return [[self._array(p) for p in layer.parameters()] for layer in net if isinstance(layer, nn.Linear)]

    def _array(self, tensor: Tensor) -> Any:
        return self._jax.numpy.asarray(tensor.detach().cpu().numpy())

    def _precision(self) -> Any:
        """JAX computes in single precision unless told."""
        return self._jax.enable_x64(self._double)
