"""What enters the detector."""

import numpy as np

from kantor.config import Geant4Source


def draw_energies(source: Geant4Source, count: int, rng: np.random.Generator) -> np.ndarray:
    """Incident energies [GeV], (count,)."""
    match source.spectrum:
        case "fixed":
            return rng.choice(np.array(source.energy), size=count)
        case "uniform":
            return rng.uniform(*source.energy, size=count)
        case "log_uniform":
            return np.exp(rng.uniform(*np.log(source.energy), size=count))
