"""Results of models, as the stages before the report write them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kantor.physics import Observable
from kantor.report.page import ModelFiles
from kantor.results import Comparison, Measurement, Provenance, TrainingRow, TrainingRun
from kantor.validation.catalogue import STATISTICS
from kantor.validation.histograms import Correlations, Figures, Histogram, Plane, Scatter

OBSERVABLES = (
    Observable("px", "p_x", "GeV", "feature"),
    Observable("q2", "Q²", "GeV²", "derived", scale="log"),
    Observable("x", "x", "", "derived", scale="log"),
)
BINS = 20
Write = Callable[..., ModelFiles]


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write the files of one model; `quality` is how far it is off, 0 for a perfect one."""

    def make(
        training: str,
        seed: int = 1,
        quality: float = 1.0,
        dataset: str = "dis",
        truth_seed: int = 7,
        scatter: Scatter | None = None,
    ) -> ModelFiles:
        model, validation = (tmp_path_factory.mktemp(kind) for kind in ("model", "validation"))
        rng = np.random.default_rng(seed)
        rows = [row(step, rng) for step in range(50, 501, 50)]
        (model / "metrics.jsonl").write_text("".join(each.model_dump_json() + "\n" for each in rows))
        run(training, seed, dataset).write(model / "run.json")
        comparison(training, seed, dataset, quality).write(validation / "metrics.json")
        replace(figures(rng, quality, truth_seed), scatter=scatter).write(validation / "validation.h5")
        return ModelFiles.of(model, validation)

    return make


def row(step: int, rng: np.random.Generator) -> TrainingRow:
    evaluated = {"energy_distance": 1 / step, "energy_distance_error": 1e-4} if step % 100 == 0 else {}
    if evaluated:
        evaluated |= {"classifier_auc": 0.5 + 20 / step, "classifier_auc_error": 0.01}
    return TrainingRow(
        step=step,
        seconds=step / 50,
        critic_loss=float("nan") if step == 50 else -rng.random(),
        generator_loss=rng.normal(),
        distance=rng.random(),
        penalty=rng.random() / 10,
        gradient_norm=1 + rng.normal() / 10,
        critic_learning_rate=1e-4,
        generator_learning_rate=2e-4,
        **evaluated,
    )


def run(training: str, seed: int, dataset: str) -> TrainingRun:
    return TrainingRun(
        training=training,
        seed=seed,
        steps=500,
        best_step=400,
        workers=2,
        parameters={"generator": 1234, "critic": 567},
        rows=60_000,
        effective_rows=60_000,
        seconds=83.0 + seed,
        attempts=1,
        fingerprint="0123456789abcdef",
        config={"dataset": dataset, "objective": {"kind": "wgan_gp"}, "note": "<script>alert(1)</script> & more"},
        provenance=Provenance.here(),
    )


def comparison(training: str, seed: int, dataset: str, quality: float) -> Comparison:
    off = quality * (1 + seed / 10)
    p_value = 0.01 if quality else 0.4

    def found(
        statistic: str,
        label: str,
        value: float,
        error: float,
        reference: float,
        *,
        observable: str | None = None,
        unit: str = "",
        p_value: float | None = None,
    ) -> Measurement:
        return Measurement(
            statistic=statistic,
            label=label,
            observable=observable,
            unit=unit,
            value=value,
            low=value - error,
            high=value + error,
            interval="95 %" if STATISTICS[statistic].is_fraction else "68 %",
            reference=reference,
            reference_low=reference - error,
            reference_high=reference + error,
            p_value=p_value,
            headline=STATISTICS[statistic].headline or statistic == "law",
        )

    per_observable = [
        found(statistic, f"{statistic.upper()} of {each.compared_label}", 0.01 * (1 + off), 0.002, 0.01,
              observable=each.name, unit=each.compared_unit if statistic == "w1" else "")
        for statistic in ("w1", "ks")
        for each in OBSERVABLES
    ]  # fmt: skip
    return Comparison(
        training=training,
        seed=seed,
        dataset=dataset,
        rows=10_000,
        effective_rows=10_000,
        ranks=2,
        seconds=12.5,
        measurements=[
            found("energy_distance", "energy distance", 0.002 * off, 0.0002, 0.0, unit="σ", p_value=p_value),
            found("c2st_auc", "classifier AUC", 0.5 + 0.1 * off, 0.006, 0.5, p_value=p_value),
            found("correlation", "mean |Δρ|", 0.01 + 0.01 * off, 0.003, 0.01),
            *per_observable,
            found("law", "Q² below its cut of 2 GeV²", 0.02 * off, 0.001, 0.0, observable="q2_below_cut"),
            found("azimuth_chi2", "azimuth: χ²/ndf to uniform", 1.0, 0.2, 0.9, p_value=0.4),
        ],
        generation_rate=1.5e6,
        checksums={"model.pt": "ab" * 32, "shard-00000.h5": "cd" * 32},
        config={"splits": 20, "replicas": 100, "confidence": 0.95},
        provenance=Provenance.here(),
    )


def figures(rng: np.random.Generator, quality: float, truth_seed: int) -> Figures:
    truth_rng = np.random.default_rng(truth_seed)
    shape = np.exp(-0.5 * np.linspace(-3, 3, BINS + 2) ** 2)

    def counts(of: np.random.Generator, wave: float) -> np.ndarray:
        values = of.poisson(1000 * shape * (1 + wave * np.sin(np.arange(BINS + 2)))).astype(float)
        return np.stack([values, values])

    histograms = []
    for observable in OBSERVABLES:
        edges = np.logspace(-1, 2, BINS + 1) if observable.scale == "log" else np.linspace(-10, 10, BINS + 1)
        histograms.append(Histogram(observable, edges, counts(truth_rng, 0), counts(rng, 0.1 * quality)))
    truth, generated = (np.eye(3) + 0.2 * (1 - np.eye(3)) * sign for sign in (1, -quality))
    plane = Plane(
        "x",
        "q2",
        np.logspace(-3, 0, BINS + 1),
        np.logspace(0, 2, BINS + 1),
        truth_rng.poisson(30, (BINS, BINS)).astype(float),
        rng.poisson(30, (BINS, BINS)).astype(float),
    )
    return Figures(histograms, Correlations([each.name for each in OBSERVABLES], truth, generated), [plane])
