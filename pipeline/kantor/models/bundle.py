"""The model bundle: one file from which events are generated, with nothing else needed.

It holds the generator's (averaged) weights, the fitted transforms, the columns with their units, the validated
configuration and where it came from, as plain types, so it loads with `weights_only=True`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kantor.config import Training, parse
from kantor.errors import InputError
from kantor.models.networks.base import Generator
from kantor.models.networks.factory import make_generator
from kantor.models.randomness import stream
from kantor.models.tensors import read_tensors, write_tensors
from kantor.models.transforms import Given, Transforms
from kantor.results import Column, offsets_of, shapes_of
from kantor.shapes import elements, width

FORMAT = 2
BLOCK = 8192
"""Rows are generated in blocks of fixed size and seed: a matrix product rounds by its shape."""


@dataclass(frozen=True)
class Bundle:
    """A trained generator with everything around it."""

    name: str
    seed: int
    training: Training
    features: tuple[Column, ...]
    conditions: tuple[Column, ...]
    generator: Generator
    feature_transforms: Transforms
    condition_transforms: Transforms
    provenance: dict[str, Any]
    condition_range: np.ndarray | None = None
    """Least and greatest of each condition in training, as stored, (2, C); None: written before bundles knew it."""

    @property
    def feature_names(self) -> list[str]:
        return [column.name for column in self.features]

    @property
    def condition_names(self) -> list[str]:
        return [column.name for column in self.conditions]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every feature and condition that is an array, by name."""
        return shapes_of([*self.features, *self.conditions])

    def condition_limits(self) -> dict[str, tuple[float, float]] | None:
        """Least and greatest physical value in training of each number that the conditions are; None: not known."""
        if self.condition_range is None:
            return None
        low_C, high_C = (self.condition_range + _offsets(self.conditions)).tolist()
        return dict(zip(elements(self.condition_names, self.shapes), zip(low_C, high_C, strict=True), strict=True))

    def generate(self, rows: int, conditions: np.ndarray | None = None, *, seed: int = 0, start: int = 0) -> np.ndarray:
        """Rows `start` ... `start + rows` of an endless sample that the seed fixes.

        Args:
            conditions: (rows, C) in physical units, one row for each event; needed when the model is conditional.

        Returns:
            (rows, D) features in physical units: float32, or float64 where a column is stored less an offset. Features
            that are arrays have their numbers side by side; `kantor.shapes.named` takes the block apart.

        Raises:
            InputError: the conditions are missing or of the wrong shape.
        """
        if conditions is not None and conditions.shape[-1:] == (width(self.condition_names, self.shapes),):
            offsets = _offsets(self.conditions)
            conditions = (conditions - offsets).astype(np.float32) if offsets.any() else conditions
        stored = self.generate_stored(rows, conditions, seed=seed, start=start)
        offsets = _offsets(self.features)
        return stored + offsets if offsets.any() else stored

    def generate_stored(
        self, rows: int, conditions: np.ndarray | None = None, *, seed: int = 0, start: int = 0
    ) -> np.ndarray:
        """As `generate`, with conditions and features as they are stored: float32, less the offsets of columns."""
        wanted = (rows, width(self.condition_names, self.shapes))
        if conditions is None and not self.conditions:
            conditions = np.empty(wanted, np.float32)
        if conditions is None or conditions.shape != wanted:
            got = "none" if conditions is None else f"shape {conditions.shape}"
            raise InputError(
                f"needs conditions of shape {wanted} ({', '.join(map(str, self.conditions))}), got {got}",
                where=f"model '{self.name}'",
                cure="pass one row of conditions for each event",
            )
        out = np.empty((rows, width(self.feature_names, self.shapes)), np.float32)
        dtype = getattr(torch, self.training.precision)
        device = next(self.generator.parameters()).device
        with torch.inference_mode():
            for block in range(start // BLOCK, -(-(start + rows) // BLOCK)):
                low, high = max(start, block * BLOCK), min(start + rows, (block + 1) * BLOCK)
                inside = slice(low - block * BLOCK, high - block * BLOCK)
                # Drawn on the CPU, so that the same seed means the same noise on every device.
                z = torch.randn(BLOCK, self.generator.latent, generator=stream(seed, "generate", block), dtype=dtype)
                c = torch.zeros(BLOCK, wanted[1], dtype=dtype)
                c[inside] = torch.from_numpy(conditions[low - start : high - start]).to(dtype)
                c = c.to(device)
                y = self.generator(z.to(device), self.condition_transforms(c))
                x = self.feature_transforms.inverse(y, Given(self.condition_transforms.values(c)))[inside]
                out[low - start : high - start] = x.float().cpu().numpy()
        return out

    def save(self, path: Path) -> None:
        """Write the bundle whole."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "seed": self.seed,
            "training": self.training.canonical(),
            **{kind: [column.model_dump() for column in getattr(self, kind)] for kind in ("features", "conditions")},
            "provenance": self.provenance,
            "condition_range": None if self.condition_range is None else torch.from_numpy(self.condition_range),
            **{part: _plain(module.state_dict()) for part, module in self._modules().items()},
        }
        write_tensors(path, content)

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Read a bundle.

        Raises:
            InputError: there is no such file, or it is not a bundle of this version.
        """
        cure, again = "train the model: kantor train", "remove it, and train the model again: kantor train"
        content = read_tensors(path, "model bundle", cure, again)
        if content.get("format") != FORMAT:
            raise InputError("is a model bundle of another version", where=path, cure=again)
        training = parse(Training, content["training"], path)
        features, conditions = (
            tuple(Column(**column) for column in content[kind]) for kind in ("features", "conditions")
        )
        feature_transforms, condition_transforms = transforms(training, features), transforms(training, conditions)
        limits = content.get("condition_range")
        bundle = cls(
            name=content["name"],
            seed=content["seed"],
            training=training,
            features=features,
            conditions=conditions,
            generator=make_generator(training.generator, condition_transforms.size, feature_transforms.size),
            feature_transforms=feature_transforms,
            condition_transforms=condition_transforms,
            provenance=content["provenance"],
            condition_range=None if limits is None else limits.numpy(),
        )
        for part, module in bundle._modules().items():
            module.to(getattr(torch, training.precision)).load_state_dict(content[part])
            module.requires_grad_(False).eval()
        return bundle

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "feature_transforms": self.feature_transforms,
            "condition_transforms": self.condition_transforms,
        }


def transforms(training: Training, columns: Sequence[Column]) -> Transforms:
    """The (unfitted) transforms that a training asks for on these columns."""
    names = [column.name for column in columns]
    coordinates = [each for each in training.coordinates if set(each.layers) <= set(names)]
    return Transforms(names, training.transforms, offsets_of(columns), shapes_of(columns), coordinates)


def _offsets(columns: Sequence[Column]) -> np.ndarray:
    """The offset of each number of an event, (D,)."""
    return np.array([column.offset for column in columns for _ in range(prod(column.shape))])


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
