"""Mixtures of equally frequent Gaussians, the toy distributions of the GAN literature."""

from collections.abc import Mapping

import numpy as np

from kantor.config import MixturePhysics
from kantor.physics.base import Modes, Physics


class Mixture(Physics):
    """Events around known modes."""

    def __init__(self, settings: MixturePhysics, constants: Mapping[str, float]) -> None:
        self.checks = (Modes(np.array(settings.centres), settings.sigma),)
