"""Objectives by their `kind` in the configuration."""

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective
from kantor.losses.cramer import cramer
from kantor.losses.wasserstein import WganGp

__all__ = ["Batch", "CriticLoss", "Objective", "make_objective"]


def make_objective(settings: config.Objective) -> Objective:
    match settings:
        case config.WganGp():
            return WganGp(settings)
        case config.Cramer():
            return cramer(settings)
