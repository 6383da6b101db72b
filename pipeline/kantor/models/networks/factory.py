"""Networks by their kind in the configuration."""

from collections.abc import Callable
from typing import Any

from kantor import config
from kantor.models.networks.base import Critic, Generator
from kantor.models.networks.perceptron import PerceptronCritic, PerceptronGenerator

_GENERATORS: dict[type[config.Settings], Callable[[Any, int, int], Generator]] = {
    config.GeneratorNetwork: PerceptronGenerator,
}
_CRITICS: dict[type[config.Settings], Callable[..., Critic]] = {
    config.CriticNetwork: PerceptronCritic,
}


def make_generator(settings: config.GeneratorNetwork, conditions: int, features: int) -> Generator:
    """The generator of a training, initialised from PyTorch's random numbers.

    Args:
        conditions: C.
        features: D.
    """
    return _GENERATORS[type(settings)](settings, conditions, features)


def make_critic(
    settings: config.CriticNetwork, conditions: int, features: int, outputs: int, *, output_bias: bool
) -> Critic:
    """The critic of a training.

    Args:
        conditions: C.
        features: D, derived ones included.
        outputs: O.
        output_bias: whether the output has a bias, which some losses do not feel.
    """
    return _CRITICS[type(settings)](settings, conditions, features, outputs, output_bias=output_bias)
