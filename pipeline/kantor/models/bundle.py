"""The model bundle: one file from which events are generated, with nothing else needed.

It holds the generator's (averaged) weights, the fitted transforms, the columns with their units, the validated
configuration and where it came from, as plain types, so it loads with `weights_only=True`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kantor.config import Training, parse
from kantor.cuts import Cuts
from kantor.errors import InputError
from kantor.models.networks.base import Generator
from kantor.models.networks.factory import make_generator
from kantor.models.randomness import stream
from kantor.models.tensors import read_tensors, write_tensors
from kantor.models.transforms import Given, Transforms
from kantor.results import Column, offsets_of, shapes_of
from kantor.shapes import elements, named, width

FORMAT = 2
BLOCK = 8192
"""Rows are generated in blocks of fixed size and seed: a matrix product rounds by its shape."""
_TRIES = 1000  # after which an event that fails the cuts is given up


@dataclass(frozen=True, eq=False)
class Drawn:
    """Generated events, (N, D) as stored, and which of them failed the cuts at first and were redrawn, (N,) bool."""

    events: np.ndarray
    redrawn: np.ndarray


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
    cuts: Sequence[str] = ()
    quantities: Mapping[str, str] = field(default_factory=dict)
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
        """Rows `start` ... `start + rows` of an endless sample that the seed fixes, all of which pass the cuts.

        Args:
            conditions: (rows, C) in physical units, one row for each event; needed when the model is conditional.

        Returns:
            (rows, D) features in physical units: float32, or float64 where a column is stored less an offset. Features
            that are arrays have their numbers side by side; `kantor.shapes.named` takes the block apart.

        Raises:
            InputError: the conditions are missing or of the wrong shape, or an event fails the cuts of the sample
                however often it is drawn.
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
        return self.draw(rows, conditions, seed=seed, start=start).events

    def draw(
        self,
        rows: int,
        conditions: np.ndarray | None = None,
        *,
        seed: int = 0,
        start: int = 0,
        tries: int = _TRIES,
        strict: bool = True,
    ) -> Drawn:
        """As `generate_stored`, and which events were drawn again, because they failed the cuts of the sample.

        An event's next tries depend on its place in the sample and its conditions only, as the first does.

        Args:
            tries: how often an event is drawn at most.
            strict: an event that fails the cuts in all of them is an error; otherwise it stays as it is.

        Raises:
            InputError: as `generate`.
        """
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
        cuts = Cuts(self.cuts, self.quantities)
        out, redrawn = np.empty((rows, width(self.feature_names, self.shapes)), np.float32), np.zeros(rows, bool)
        for block in range(start // BLOCK, -(-(start + rows) // BLOCK)):
            low, high = max(start, block * BLOCK), min(start + rows, (block + 1) * BLOCK)
            inside = slice(low - block * BLOCK, high - block * BLOCK)
            c = np.zeros((BLOCK, wanted[1]), np.float32)
            c[inside] = conditions[low - start : high - start]
            x = self._block(c, seed, block)[inside]
            failing = self._failing(cuts, x, c[inside])
            redrawn[low - start : high - start] = failing
            for again in range(1, tries):
                if not failing.any():
                    break
                # All rows, each at its place: the matrix product then rounds as for any other part of the sample.
                x[failing] = self._block(c, seed, block, f", try {again}")[inside][failing]
                failing &= self._failing(cuts, x, c[inside])
            if strict and failing.any():
                raise InputError(
                    f"{np.count_nonzero(failing):,} of {high - low:,} events fail the cuts in each of {tries:,} tries: "
                    f"{' and '.join(self.cuts)}",
                    where=f"model '{self.name}'",
                    cure="train it longer, or choose coordinates that end where the cuts do; do the conditions allow "
                    "what passes?",
                )
            out[low - start : high - start] = x
        return Drawn(out, redrawn)

    def _block(self, conditions: np.ndarray, seed: int, block: int, again: str = "") -> np.ndarray:
        """A block of events, whole, (BLOCK, D) as stored."""
        dtype, device = getattr(torch, self.training.precision), next(self.generator.parameters()).device
        with torch.inference_mode():
            # Drawn on the CPU, so that the same seed means the same noise on every device.
            noise = stream(seed, f"generate{again}", block)
            z = torch.randn(BLOCK, self.generator.latent, generator=noise, dtype=dtype)
            c = torch.from_numpy(conditions).to(device, dtype)
            y = self.generator(z.to(device), self.condition_transforms(c))
            drawn = stream(seed, f"generate coordinates{again}", block) if self.feature_transforms.draws else None
            x = self.feature_transforms.inverse(y, Given(self.condition_transforms.values(c), drawn))
            return x.float().cpu().numpy()

    def _failing(self, cuts: Cuts, stored: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Which events fail the cuts, (N,) bool. What is not finite is none to be hidden by drawing it again."""
        if not cuts:
            return np.zeros(len(stored), dtype=bool)
        columns = {}
        for kind, rows in ((self.features, stored), (self.conditions, conditions)):
            columns |= named(rows.astype(np.float64) + _offsets(kind), [column.name for column in kind], self.shapes)
        return ~cuts.passing(columns) & np.isfinite(stored).all(axis=1)

    def save(self, path: Path) -> None:
        """Write the bundle whole."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "seed": self.seed,
            "training": self.training.canonical(),
            **{kind: [column.model_dump() for column in getattr(self, kind)] for kind in ("features", "conditions")},
            "provenance": self.provenance,
            "cuts": list(self.cuts),
            "quantities": dict(self.quantities),
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
            # Bundles of before have none.
            cuts=content.get("cuts", ()),
            quantities=content.get("quantities", {}),
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
    coordinates = [each for each in training.coordinates if set(each.mapped) <= set(names)]
    return Transforms(names, training.transforms, offsets_of(columns), shapes_of(columns), coordinates)


def _offsets(columns: Sequence[Column]) -> np.ndarray:
    """The offset of each number of an event, (D,)."""
    return np.array([column.offset for column in columns for _ in range(prod(column.shape))])


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
