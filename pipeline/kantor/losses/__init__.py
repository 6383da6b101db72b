"""Objectives and terms by their `kind` in the configuration."""

from collections.abc import Callable
from typing import Any

from kantor import config
from kantor.losses.adversarial import Gan, Hinge, LsGan, NsGan, Wgan, sn_gan
from kantor.losses.base import Batch, CriticLoss, Objective
from kantor.losses.cramer import cramer
from kantor.losses.engression import Engression
from kantor.losses.mmd_gan import mmd_gan
from kantor.losses.moments import matching
from kantor.losses.packing import Packed
from kantor.losses.relativistic import R3Gan
from kantor.losses.terms import Constrainer, make_terms
from kantor.losses.wasserstein import WganGp

__all__ = ["Batch", "Constrainer", "CriticLoss", "Objective", "make_objective", "make_terms"]


_KINDS: dict[type[config.Settings], Callable[[Any], Objective]] = {
    config.Gan: Gan,
    config.NsGan: NsGan,
    config.LsGan: LsGan,
    config.Hinge: Hinge,
    config.SnGan: sn_gan,
    config.Wgan: Wgan,
    config.WganGp: WganGp,
    config.R3Gan: R3Gan,
    config.Cramer: cramer,
    config.EnergyMatching: matching,
    config.MmdMatching: matching,
    config.MmdGan: mmd_gan,
    config.Engression: Engression,
}


def make_objective(settings: config.Objective, pack: int = 1) -> Objective:
    """The objective that a configuration asks for, of a critic that judges `pack` events at once."""
    objective = _KINDS[type(settings)](settings)
    return objective if pack == 1 else Packed(objective, pack)
