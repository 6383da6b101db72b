"""The trainings of docs/coordinates.md on DIS events train, and what they generate ends where it should."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kantor.config import Training
from kantor.models.bundle import Bundle
from kantor.training.job import Job
from kantor.training.worker import read_rows, work

PAGE = Path(__file__).parents[3] / "docs" / "coordinates.md"
SHOWN: dict[str, dict[str, Any]] = {
    name: training
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name, training in yaml.safe_load(block).get("trainings", {}).items()
    if training["dataset"] == "dis"
}
SHORT = {
    "generator": {"latent": 4, "width": 16, "depth": 2},
    "critic": {"width": 16, "depth": 2},
    "batch": 64,
    "steps": 4,
    "log_every": 4,
    "evaluate_rows": 100,
    "evaluate_classifier": False,
}


def trained(name: str, manifest: Path, out: Path) -> Bundle:
    settings = Training.model_validate(SHOWN[name] | SHORT)
    work(Job(name, 1, settings, manifest, out, "code", workers=1))
    (row,) = read_rows(out / "metrics.jsonl")
    assert row.energy_distance is not None
    assert np.isfinite([row.critic_loss, row.generator_loss, row.energy_distance]).all()
    return Bundle.load(out / "model.pt")


def test_the_page_shows_what_is_tested_here() -> None:
    assert set(SHOWN) == {"wgan_gp_unfolded", "fat_cartesian", "fat_spherical"}


def test_unfolded_no_event_lies_beyond_an_edge(dis_manifest: Path, tmp_path: Path) -> None:
    bundle = trained("wgan_gp_unfolded", dis_manifest, tmp_path)
    px, py, pz = bundle.generate(20_000, seed=2).astype(np.float64).T
    pt = np.hypot(px, py)
    assert (pz <= 50).all()
    # But for what single precision makes of them.
    assert (100 * pt**2 / (np.hypot(pt, pz) + pz)).min() >= 2 * (1 - 1e-6)
    # A generator of four updates, and yet the azimuth is that of the data.
    for order in (1, 2, 3):
        assert abs(np.exp(1j * order * np.arctan2(py, px)).mean()) < 4 / 20_000**0.5


def test_fat_gan_in_spherical_coordinates(dis_manifest: Path, tmp_path: Path) -> None:
    bundle = trained("fat_spherical", dis_manifest, tmp_path)
    assert bundle.feature_transforms.size == 4  # p, theta, cosine and sine of phi
    assert bundle.training.transforms == {}
    assert np.isfinite(bundle.generate(1000)).all()
