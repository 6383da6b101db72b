"""Two and four ranks give the gradient of one on the joined batch, and end with its weights (bars of the docs)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from kantor.config import Objective, Term, Training

SCRIPT = Path(__file__).with_name("one_rank.py")
Results = dict[str, dict[str, Any]]

CRITIC = {"width": 16, "depth": 2}
CASES: dict[str, dict[str, Any]] = {
    "gan": {"objective": {"kind": "gan", "real_label": 0.9}, "instance_noise": {"deviation": 0.5}},
    "ns_gan": {"objective": {"kind": "ns_gan"}, "critic": CRITIC | {"minibatch_std": 8}},
    "ls_gan": {"objective": {"kind": "ls_gan"}, "critic": CRITIC | {"residual": True, "norm": "layer"}},
    "sn_gan": {
        "objective": {"kind": "sn_gan"},
        "critic": CRITIC | {"spectral_norm": True},
        "generator": {"latent": 4, "width": 16, "depth": 2, "spectral_norm": True},
    },
    "wgan": {
        "objective": {"kind": "wgan"},
        "critic_optimiser": {"kind": "rmsprop", "learning_rate": 1e-3},
        "head_start": {"steps": 2, "n_critic": 6},
    },
    "wgan_gp": {"objective": {"kind": "wgan_gp"}},
    "wgan_gp, dropout": {
        "objective": {"kind": "wgan_gp", "penalty": {"one_sided": True}},
        "critic": CRITIC | {"dropout": 0.3},
        "critic_optimiser": {"learning_rate": 1e-3, "clip_norm": 0.5, "schedule": "exponential", "warm_up": 2},
    },
    "cramer": {"objective": {"kind": "cramer", "embedding": 8}},
    "cramer, dropout": {"objective": {"kind": "cramer", "embedding": 8}, "critic": CRITIC | {"dropout": 0.3}},
    "surrogate": {"objective": {"kind": "cramer", "critic": "surrogate", "embedding": 8}},
    "cramer, all pairs": {"objective": {"kind": "cramer", "pairs": "all", "embedding": 8}},
    "energy": {"objective": {"kind": "energy"}, "n_critic": 0},
    "mmd": {"objective": {"kind": "mmd"}, "n_critic": 0},
    "mmd, embedded": {"objective": {"kind": "mmd", "embedding": 8, "kernel": "gaussian"}},
    "coordinates": {
        "objective": {"kind": "wgan_gp"},
        "transforms": {},
        "coordinates": [
            {
                "kind": "expressions",
                "forward": {"ratio": "response / momentum", "log_width": "log(width)"},
                "inverse": {"response": "ratio * momentum", "width": "exp(log_width)"},
                "periodic": ["log_width"],
                "ranges": {"log_width": [-5, 5]},
            }
        ],
    },
    "terms": {
        "objective": {"kind": "wgan_gp"},
        "terms": [
            {"kind": "mmd", "weight": 2.0},
            {"kind": "mmd", "estimator": "linear", "squared": True, "weight": 10.0},
            {"kind": "feature_matching"},
            {"kind": "constrainer", "weight": 0.5},
        ],
    },
}


@pytest.mark.parametrize("section", ["objective", "terms"])
def test_every_kind_has_a_case(section: str) -> None:
    union = {"objective": Objective, "terms": Term}[section]
    kinds = {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(union)[0])}
    used = [case.get(section, []) for case in CASES.values()]
    assert kinds == {each["kind"] for case in used for each in (case if isinstance(case, list) else [case])}


def run(trainings: dict[str, Training], manifest: Path, directory: Path, world: int) -> Results:
    out = directory / f"{world}.pt"
    text = json.dumps({name: settings.model_dump(mode="json") for name, settings in trainings.items()})
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                str(SCRIPT),
                text,
                str(manifest),
                str(out),
                *map(str, (rank, world)),
                str(directory / "r"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors
    return torch.load(out, weights_only=True)


def settings(small_training: Training, case: str, precision: str) -> Training:
    changes = {
        "precision": precision,
        "n_critic": 5,
        "steps": 4,
        "generator_optimiser": {"learning_rate": 1e-3},
        "critic_optimiser": {"learning_rate": 1e-3},
    }
    return Training.model_validate(small_training.model_dump() | changes | CASES[case])


@pytest.fixture(scope="module")
def double(
    small_training: Training, weighted_manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Results, Results]:
    """Every case on one rank and on two."""
    trainings = {case: settings(small_training, case, "float64") for case in CASES}
    one, two = (run(trainings, weighted_manifest, tmp_path_factory.mktemp("ranks"), world) for world in (1, 2))
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one(case: str, double: tuple[Results, Results]) -> None:
    one, two = (results[case] for results in double)
    same(case, one, two)


@pytest.mark.slow
def test_four_ranks_are_one(
    small_training: Training, weighted_manifest: Path, tmp_path: Path, double: tuple[Results, Results]
) -> None:
    cases = ("wgan_gp", "cramer")
    trainings = {case: settings(small_training, case, "float64") for case in cases}
    four = run(trainings, weighted_manifest, tmp_path, 4)
    for case in cases:
        same(case, double[0][case], four[case])


def same(case: str, one: dict[str, Any], more: dict[str, Any]) -> None:
    """One rank and several have the same gradients, weights and losses."""
    closed_form = case in ("wgan_gp", "cramer", "surrogate", "cramer, all pairs", "mmd, embedded", "terms")
    for results in (one, more):
        assert (results["computed by"] == "_KnownGradientsBackward") == closed_form
    critic_free = CASES[case].get("n_critic") == 0
    for name in ("generator gradient",) if critic_free else ("critic gradient", "generator gradient"):
        assert one[name].abs().max() > 1e-3
        assert relative(one[name], more[name]) <= 1e-12, name
    # 20 critic and 4 generator updates.
    for name in ("generator", "losses") if critic_free else ("critic", "generator", "losses"):
        assert relative(one[name], more[name]) <= 1e-10, name


@pytest.mark.slow
def test_two_ranks_are_one_in_single_precision(
    small_training: Training, weighted_manifest: Path, tmp_path: Path
) -> None:
    trainings = {case: settings(small_training, case, "float32") for case in ("wgan_gp", "cramer", "cramer, all pairs")}
    one, two = (run(trainings, weighted_manifest, tmp_path, world) for world in (1, 2))
    for case in trainings:
        for name in ("critic gradient", "generator gradient"):
            assert relative(one[case][name], two[case][name]) <= 1e-5, (case, name)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()
