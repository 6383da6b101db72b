"""Objectives and terms by their `kind` in the configuration."""

from kantor import config
from kantor.losses.adversarial import Gan, LsGan, NsGan, Wgan, sn_gan
from kantor.losses.base import Batch, CriticLoss, Objective
from kantor.losses.cramer import cramer
from kantor.losses.moments import AllPairs, matching
from kantor.losses.terms import Constrainer, make_terms
from kantor.losses.wasserstein import WganGp
from kantor_kernels import Energy

__all__ = ["Batch", "Constrainer", "CriticLoss", "Objective", "make_objective", "make_terms"]


def make_objective(settings: config.Objective) -> Objective:
    match settings:
        case config.Gan():
            return Gan(settings)
        case config.NsGan():
            return NsGan(settings)
        case config.LsGan():
            return LsGan(settings)
        case config.SnGan():
            return sn_gan(settings)
        case config.Wgan():
            return Wgan(settings)
        case config.WganGp():
            return WganGp(settings)
        case config.Cramer(pairs="all"):
            return AllPairs(Energy(), settings.embedding, settings.penalty)
        case config.Cramer():
            return cramer(settings)
        case config.EnergyMatching() | config.MmdMatching():
            return matching(settings)
