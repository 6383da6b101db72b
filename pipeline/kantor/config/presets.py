"""Published recipes: the defaults of each objective, and presets that a training is made from.

Where each number comes from: docs/objectives.md.
"""

from collections.abc import Mapping
from typing import Any

_ADAM_DCGAN = {"kind": "adam", "learning_rate": 2e-4, "betas": (0.5, 0.999)}
_ADAM_WGAN_GP = {"kind": "adam", "learning_rate": 1e-4, "betas": (0.5, 0.9)}
_RMSPROP_WGAN = {"kind": "rmsprop", "learning_rate": 5e-5}


def _both(optimiser: Mapping[str, Any]) -> dict[str, Any]:
    return {"critic_optimiser": optimiser, "generator_optimiser": optimiser}


# Where an objective is not named, the defaults of the schema are its own.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "gan": {"n_critic": 1, **_both(_ADAM_DCGAN)},
    "ns_gan": {"n_critic": 1, **_both(_ADAM_DCGAN)},
    "ls_gan": {"n_critic": 1, **_both(_ADAM_DCGAN)},
    "hinge": {"n_critic": 1, **_both(_ADAM_DCGAN)},
    "sn_gan": {"n_critic": 1, "critic": {"spectral_norm": True}, **_both(_ADAM_DCGAN)},
    "wgan": {"n_critic": 5, **_both(_RMSPROP_WGAN)},
    "r3gan": {"n_critic": 1},
    "energy": {"n_critic": 0},
    "mmd": {"n_critic": 0},
    "mmd_gan": {"n_critic": 5, **_both(_ADAM_WGAN_GP)},
    "engression": {"n_critic": 0},
}

PRESETS: dict[str, dict[str, Any]] = {
    # Alanazi et al., arXiv:2001.11103: electrons (px, py, pz) in GeV, beams of 50 GeV.
    "fat_gan": {
        "transforms": {"pz": [{"kind": "log_distance", "edge": 50.0, "side": "below"}, {"kind": "standardise"}]},
        "critic_features": {
            "pT": "sqrt(px**2 + py**2)",
            "E": "sqrt(px**2 + py**2 + pz**2)",
            "pz_in_GeV": "pz",
            "pz_over_pT": "pz / pT",
        },
        "generator": {"latent": 100, "width": 512, "depth": 5, "activation": "leaky_relu", "slope": 0.2},
        "critic": {"width": 512, "depth": 5, "activation": "leaky_relu", "slope": 0.2, "dropout": 0.1},
        "objective": {"kind": "wgan_gp", "penalty": {"weight": 10.0}},
        # exp(-d^2) is a Gaussian of s = 1 / sqrt(2).
        "terms": [
            {
                "kind": "mmd",
                "kernel": "gaussian",
                "scales": [0.5**0.5],
                "estimator": "linear",
                "squared": True,
                "weight": 1000.0,
            }
        ],
        "n_critic": 5,
        "batch": 16_000,
        "steps": 200_000,
        "ema": 0.0,
        **_both(_ADAM_WGAN_GP),
    },
    # Gulrajani et al., arXiv:1704.00028: 8 Gaussians, 25 Gaussians, swiss roll.
    "wgan_gp_toy": {
        "generator": {"latent": 2, "width": 512, "depth": 3, "activation": "relu", "initialisation": "kaiming"},
        "critic": {"width": 512, "depth": 3, "activation": "relu", "initialisation": "kaiming"},
        "objective": {"kind": "wgan_gp", "penalty": {"weight": 0.1}},
        "n_critic": 5,
        "batch": 256,
        "steps": 100_000,
        "ema": 0.0,
        **_both(_ADAM_WGAN_GP),
    },
    # LHCb's RICH trainings (mbarbetti/lb-pidsim-train, rich-cramergan).
    "rich": {
        "generator": {"latent": 64, "width": 128, "depth": 5, "activation": "leaky_relu", "slope": 0.05},
        "critic": {"width": 128, "depth": 5, "activation": "leaky_relu", "slope": 0.05},
        "objective": {"kind": "cramer", "embedding": 256, "penalty": {"weight": 1.0}},
        "n_critic": 5,
        "batch": 512,
    },
}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: sections key by key, unless they are of different kinds; all else as a whole."""
    result = {**below, **above}
    for name in below.keys() & above.keys():
        old, new = below[name], above[name]
        sections = isinstance(old, Mapping) and isinstance(new, Mapping)
        if sections and new.get("kind", old.get("kind")) == old.get("kind"):
            result[name] = merged(old, new)
    return result
