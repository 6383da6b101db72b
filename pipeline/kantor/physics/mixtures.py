"""Mixtures of equally frequent Gaussians, the toy distributions of the GAN literature."""

from collections.abc import Mapping, Sequence

import numpy as np

from kantor.config import MixturePhysics
from kantor.physics.base import Modes, Physics
from kantor.results import Column


class Mixture(Physics):
    """Events around known modes."""

    def __init__(
        self, settings: MixturePhysics, constants: Mapping[str, float], columns: Sequence[Column] = ()
    ) -> None:
        self.checks = (Modes(np.array(settings.centres), settings.sigma),)
