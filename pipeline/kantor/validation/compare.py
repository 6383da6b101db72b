"""One model against held-out truth: every statistic with its uncertainty and its truth-against-truth value.

The test split is divided at random into two halves of equal size. The first is the truth. The generated sample takes
its conditions and weights from the second, so that under a perfect model the two are as independent as the halves
themselves: sharing the truth's own conditions would correlate them and make p-values and references wrong.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from kantor.config import Validation
from kantor.data.manifest import Manifest
from kantor.data.samples import Sample, check_enough, read_split
from kantor.errors import InputError
from kantor.machine.files import explained, sha256
from kantor.machine.progress import log
from kantor.machine.ranks import Ranks
from kantor.models.bundle import BLOCK, Bundle, Drawn
from kantor.resolution import is_constant
from kantor.results import Comparison, Provenance, offsets_of
from kantor.validation.measures import Measures, random_stream
from kantor.validation.observables import Observables
from kantor.validation.statistics import weighted_mean

METRICS, FIGURES = "metrics.json", "validation.h5"


def validate(bundle: Path, manifest: Path, settings: Validation, out: Path, ranks: Ranks) -> Comparison:
    """Compare a model with held-out events; write out/metrics.json and out/validation.h5.

    Every rank calls this and gets the same comparison back; rank 0 writes. A rank works on one thread, so more cores
    are used by more ranks.

    Args:
        bundle: the model.
        manifest: manifest.json of the dataset.
        settings: sample sizes, repetitions, seed.
        out: directory of the results, made if need be.

    Raises:
        InputError: a file is missing or damaged, the dataset is not the model's, its test split is too small, the
            model generates values that are not finite, or the results cannot be written.
    """
    began = time.monotonic()
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    model, content = Bundle.load(bundle), Manifest.read(manifest)
    _check_columns(model, content, bundle)
    observables = Observables(content, settings.observables.get(content.dataset, {}), manifest)
    truth, other = _halves(manifest, settings)
    if ranks.is_root:
        log.info(f"validating {model.name}, seed {model.seed}: {truth.rows:,} generated events, as many held-out ones")
    constant = _constant_columns(truth, manifest)
    with _one_thread():
        generated, redrawn, rate = _generate(model, other, settings.seed, ranks, bundle)
        measures = Measures.of(settings, observables, truth, generated, _joined(truth, other))
        measurements, figures = measures.run(ranks)
        if model.cuts:
            measurements.append(measures.redrawn(redrawn))
    comparison = Comparison(
        training=model.name,
        seed=model.seed,
        dataset=content.dataset,
        rows=truth.rows,
        effective_rows=truth.effective_rows,
        ranks=ranks.size,
        seconds=time.monotonic() - began,
        constant=constant,
        features=content.features,
        conditions=content.conditions,
        measurements=measurements,
        weighted_means=_weighted_means(observables, truth),
        generation_rate=rate,
        checksums={bundle.name: sha256(bundle)} | {shard.file: shard.sha256 for shard in content.shards},
        config=settings.model_dump(mode="json"),
        provenance=Provenance.here(),
    )
    if ranks.is_root:
        figures.write(out / FIGURES)
        comparison.write(out / METRICS)
    ranks.barrier()
    return comparison


def _check_columns(model: Bundle, content: Manifest, where: Path) -> None:
    for kind, mine, theirs in (
        ("features", model.features, content.features),
        ("conditions", model.conditions, content.conditions),
    ):
        ours, others = (list(map(str, columns)) for columns in (mine, theirs))
        if ours != others:
            raise InputError(
                f"its {kind} are ({', '.join(ours)}), those of dataset '{content.dataset}' ({', '.join(others)})",
                where=where,
                cure=f"validate with the dataset it was trained on, '{model.training.dataset}'",
            )
    offsets = offsets_of([*model.features, *model.conditions])
    if offsets != content.offsets:
        raise InputError(
            f"its columns are stored less {offsets or 'nothing'}, those of dataset '{content.dataset}' less "
            f"{content.offsets or 'nothing'}",
            where=where,
            cure="train it again: the dataset was staged anew from other values",
        )


def _halves(manifest: Path, settings: Validation) -> tuple[Sample, Sample]:
    """The truth and an independent sample of the same size, both from the test split."""
    test = read_split(manifest, "test")
    rows = min(settings.rows, test.rows // 2)
    order = random_stream(settings.seed, "halves").permutation(test.rows)
    truth, other = test.take(order[:rows]), test.take(order[rows : 2 * rows])
    for half in (truth, other):
        check_enough(half.effective_rows, "a half of the test split", manifest)
        if half.weights is not None and half.weights.sum(dtype=np.float64) <= 0:
            raise InputError(
                "the weights of its test split sum to zero or less, so there is nothing to compare with",
                where=manifest,
                cure="check the sign of the weights, or use more events",
            )
    return truth, other


def _constant_columns(truth: Sample, manifest: Path) -> list[str]:
    """What is left out of joint statistics.

    Raises:
        InputError: every feature is constant.
    """
    columns = truth.stored_features() | truth.stored_conditions()
    constant = [name for name, values in columns.items() if is_constant(values.min(0), values.max(0)).all()]
    if set(truth.feature_names) <= set(constant):
        raise InputError(
            "every feature is constant in its test split: there is nothing to compare",
            where=manifest,
            cure="choose features that vary",
        )
    return constant


def _generate(model: Bundle, like: Sample, seed: int, ranks: Ranks, where: Path) -> tuple[Sample, np.ndarray, float]:
    """Events for the conditions of `like`, which of them were redrawn, and how many of the first block per second."""
    model.generate_stored(1, like.conditions[:1], seed=seed)  # the first call also sets up what later ones use

    def block(piece: int) -> tuple[Drawn, float]:
        conditions = like.conditions[piece * BLOCK : (piece + 1) * BLOCK]
        began = time.perf_counter()
        drawn = model.draw(len(conditions), conditions, seed=seed, start=piece * BLOCK)
        return drawn, len(conditions) / (time.perf_counter() - began)

    blocks = ranks.gather(-(-like.rows // BLOCK), block)
    features = np.concatenate([drawn.events for drawn, _ in blocks])
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise InputError(
            f"generates NaN or infinity in {bad:,} of {like.rows:,} events",
            where=where,
            cure="train again, with a lower learning rate or other transforms; metrics.jsonl shows where it went wrong",
        )
    return replace(like, features=features), np.concatenate([drawn.redrawn for drawn, _ in blocks]), blocks[0][1]


def _joined(first: Sample, second: Sample) -> Sample:
    weights = None
    if first.weights is not None and second.weights is not None:
        weights = np.concatenate([first.weights, second.weights])
    return replace(
        first,
        features=np.concatenate([first.features, second.features]),
        conditions=np.concatenate([first.conditions, second.conditions]),
        weights=weights,
    )


def _weighted_means(observables: Observables, truth: Sample) -> dict[str, dict[str, float]]:
    """Weighted means of the truth under each policy for signed weights; clip and drop differ in rows, not in means.

    Rows where an observable is not finite are left out of its mean.
    """
    if truth.weights is None:
        return {}
    policies = {
        "keep": truth.weights,
        "clip": np.maximum(truth.weights, 0),
        "drop": np.where(truth.weights < 0, 0, truth.weights),
    }
    finite = {name: (values, np.isfinite(values)) for name, values in observables.values(truth).items()}
    return {
        policy: {name: weighted_mean(of[rows], weights[rows]) for name, (of, rows) in finite.items() if rows.any()}
        for policy, weights in policies.items()
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread in PyTorch, scikit-learn and BLAS: results must not depend on how ranks share a machine's cores."""
    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
