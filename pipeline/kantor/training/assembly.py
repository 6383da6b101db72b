"""From staged events and a configuration to what the loop trains on: transforms, critic features, rows, networks."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kantor.config import Training
from kantor.data.manifest import Manifest
from kantor.data.samples import Sample, check_enough, read_splits
from kantor.errors import InputError
from kantor.losses import Objective, make_objective
from kantor.models.bundle import Bundle, transforms
from kantor.models.features import CriticFeatures
from kantor.models.randomness import stream
from kantor.models.transforms import Given, Transforms
from kantor.physics import physics_of
from kantor.training.advice import Advice, advise
from kantor.training.feed import Rows
from kantor.training.state import State


@dataclass(frozen=True)
class Assembly:
    """A training, ready for its loop."""

    settings: Training
    seed: int
    manifest: Manifest
    features: Transforms
    conditions: Transforms
    view: CriticFeatures
    objective: Objective
    rows: Rows
    effective_rows: float
    validation: Sample
    state: State
    advice: Sequence[Advice]
    condition_range: np.ndarray

    def bundle(self, name: str, provenance: dict[str, Any]) -> Bundle:
        """The averaged generator as it stands, with everything that generation needs."""
        return Bundle(
            name=name,
            seed=self.seed,
            training=self.settings,
            features=tuple(self.manifest.features),
            conditions=tuple(self.manifest.conditions),
            generator=self.state.averaged,
            feature_transforms=self.features,
            condition_transforms=self.conditions,
            provenance=provenance,
            cuts=self.manifest.cuts,
            quantities=self.manifest.quantities,
            condition_range=self.condition_range,
        )


def assemble(
    settings: Training,
    seed: int,
    manifest_path: Path,
    device: torch.device | str = "cpu",
    copy: Path | None = None,
) -> Assembly:
    """Read the data, fit the transforms on the training split, initialise the networks.

    `copy` is a directory of shards to be read instead of those beside the manifest.

    Raises:
        InputError: a shard is damaged, a column is unknown, or a transform does not accept the data.
    """
    manifest = Manifest.read(manifest_path)
    check_columns(settings, manifest)
    splits = read_splits(manifest_path, "train", "validation", copy=copy)
    train, validation = (with_policy(sample, settings.signed_weights) for sample in splits)
    validation = validation.take(slice(settings.evaluate_rows))
    for sample, split in ((train, "training"), (validation, "validation")):
        what = f"the {split} split (signed_weights: {settings.signed_weights})"
        check_enough(sample.effective_rows, what, manifest_path)

    dtype = getattr(torch, settings.precision)
    features = transforms(settings, manifest.features)
    conditions = transforms(settings, manifest.conditions)
    weights = None if train.weights is None else torch.from_numpy(train.weights)
    given = conditions.values(torch.from_numpy(train.conditions))
    for purpose, fitted, values in (
        ("features", features, train.features),
        ("conditions", conditions, train.conditions),
    ):
        noise = stream(seed, f"fitted {purpose}", 0)
        fitted.to(torch.float64).fit(torch.from_numpy(values), weights, Given(given, noise))
        fitted.to(device, dtype)
    if set(features.columns) == set(features.constant_columns):
        raise InputError(
            "every feature is constant in the training split: there is nothing to learn",
            where=manifest_path,
            cure="choose features that vary",
        )
    derived = settings.critic_features | _observables(settings, manifest, manifest_path)
    view = CriticFeatures(derived, features, conditions).to(device, dtype)

    with torch.no_grad():
        # A row's exact values are spread once: an event is the same in every epoch.
        stored_NC = torch.from_numpy(train.conditions).to(device, dtype)
        given = Given(conditions.values(stored_NC), stream(seed, "spread features", 0))
        x_ND = features(torch.from_numpy(train.features).to(device, dtype), given)
        c_NC = conditions(stored_NC, Given(noise=stream(seed, "spread conditions", 0)))
        view.fit(x_ND, c_NC)
        rows = Rows(view(x_ND, c_NC), c_NC, None if weights is None else weights.to(device, dtype))

    objective = make_objective(settings.objective, settings.critic.pack)
    state = State.fresh(
        settings,
        features=x_ND.shape[1],
        critic_features=rows.real.shape[1],
        conditions=conditions.elements,
        objective=objective,
        seed=seed,
        device=device,
    )
    return Assembly(
        settings,
        seed,
        manifest,
        features,
        conditions,
        view,
        objective,
        rows,
        train.effective_rows,
        validation,
        state,
        advise(settings, manifest, train),
        np.stack([train.conditions.min(axis=0), train.conditions.max(axis=0)]),
    )


def check_columns(settings: Training, manifest: Manifest) -> None:
    """Raise `InputError` where the configuration names columns the dataset does not have."""
    known = [*manifest.feature_names, *manifest.condition_names]
    unknown = sorted(set(settings.transforms) - set(known))
    if unknown:
        raise InputError(
            f"'{unknown[0]}' is not a column of dataset '{manifest.dataset}'",
            where="transforms",
            cure=f"choose from: {', '.join(known)}",
        )
    arrays, features = ([c.name for c in manifest.features if bool(c.shape) is wanted] for wanted in (True, False))
    numbers = [column.name for column in manifest.conditions if not column.shape]
    for each in settings.coordinates:
        what, choices = ("an array", arrays) if each.arrays else ("a number", features)
        _check_known(each.mapped, choices, f"a feature that is {what}", manifest)
        _check_known(each.conditions, numbers, "a condition that is a number", manifest)


def _observables(settings: Training, manifest: Manifest, where: Path) -> dict[str, str]:
    """Expressions of the physics that the critic also sees, in the order of the physics."""
    known = physics_of(manifest, where).expressions if settings.critic_observables else {}
    for pattern in settings.critic_observables:
        if not fnmatch.filter(known, pattern):
            raise InputError(
                f"'{pattern}' is no observable of the physics of dataset '{manifest.dataset}' that is an expression",
                where="critic_observables",
                cure=f"choose from: {', '.join(known)}" if known else "write 'critic_features' instead",
            )
    return {
        name: text
        for name, text in known.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.critic_observables)
    }


def _check_known(names: Sequence[str], choices: Sequence[str], what: str, manifest: Manifest) -> None:
    strange = [name for name in names if name not in choices]
    if strange:
        raise InputError(
            f"'{strange[0]}' is not {what} in dataset '{manifest.dataset}'",
            where="coordinates",
            cure=f"choose from: {', '.join(choices)}" if choices else "it has none",
        )


def with_policy(sample: Sample, policy: Literal["keep", "clip", "drop"]) -> Sample:
    """Negative weights as they are, set to zero, or with their rows left out."""
    if sample.weights is None or policy == "keep":
        return sample
    if policy == "drop":
        return sample.take(np.flatnonzero(sample.weights >= 0))
    clipped = np.clip(sample.weights, 0, None)
    return replace(sample, weights=clipped)
