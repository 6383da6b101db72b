"""What the critic sees: the transformed features and derived ones (FAT-GAN's augmentation, arXiv:2001.11103).

Derived features are expressions of the physical columns. They are computed before real and generated rows are
interpolated, so the gradient penalty acts on everything the critic sees. Shapes: N rows, D transformed features,
C conditions, F numbers of derived features, of which an expression of arrays may give several.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kantor.errors import ConfigError, InputError
from kantor.expressions import Expression
from kantor.models.transforms import Given, Transforms
from kantor.resolution import is_constant
from kantor.shapes import Shape, elements, width


class CriticFeatures(nn.Module):
    """(transformed features (N, D), transformed conditions (N, C)) -> what the critic sees (N, D + F).

    Raises:
        ConfigError: an expression reads an unknown column.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, expressions: Mapping[str, str], features: Transforms, conditions: Transforms) -> None:
        super().__init__()
        self.expressions = {name: Expression(text) for name, text in expressions.items()}
        self._transforms = (features, conditions)  # in a tuple: the bundle stores these modules once, elsewhere
        known = {
            column: torch.ones(1, *transforms.shapes.get(column, ()))
            for transforms in self._transforms
            for column in transforms.columns
        }
        self._shapes: dict[str, Shape] = {}
        for name, expression in self.expressions.items():
            unknown = [column for column in expression.names if column not in known]
            if unknown:
                raise ConfigError(
                    f"'{expression.text}' reads the unknown column '{unknown[0]}'",
                    where=f"critic_features.{name}",
                    cure=f"columns and derived features known here: {', '.join(sorted(known))}",
                )
            try:
                known[name] = expression.rows(known, torch, 1)
            except ConfigError as error:
                raise ConfigError(error.what, where=f"critic_features.{name}", cure=error.cure) from error
            self._shapes[name] = tuple(known[name].shape[1:])
        derived = width(list(self.expressions), self._shapes)
        self.size = features.size + derived
        self.register_buffer("mean", torch.zeros(derived))
        self.register_buffer("deviation", torch.ones(derived))

    def fit(self, x_ND: Tensor, c_NC: Tensor) -> None:
        """Standardise the derived features by the training rows.

        Raises:
            InputError: a derived feature is not finite somewhere.
        """
        if not self.expressions:
            return
        derived_NF = self._derive(x_ND, c_NC)
        for name, values in zip(elements(list(self.expressions), self._shapes), derived_NF.unbind(-1), strict=True):
            bad = int((~values.isfinite()).sum())
            if bad:
                raise InputError(
                    f"is not finite in {bad} training rows",
                    where=f"critic_features.{name}",
                    cure="change the expression, or cut these rows in the dataset",
                )
        constant_F = is_constant(derived_NF.amin(0), derived_NF.amax(0))
        self.mean.copy_(derived_NF.mean(0))
        self.deviation.copy_(torch.where(constant_F, 1.0, derived_NF.std(0, correction=0)))

    def forward(self, x_ND: Tensor, c_NC: Tensor) -> Tensor:
        features, _ = self._transforms
        if features.settles:
            # A generator says something of constants, too, and gives angles a radius: neither is generated.
            x_ND = features.settled(x_ND)
        if not self.expressions:
            return x_ND
        return torch.cat([x_ND, (self._derive(x_ND, c_NC) - self.mean) / self.deviation], dim=-1)

    def _derive(self, x_ND: Tensor, c_NC: Tensor) -> Tensor:
        features, conditions = self._transforms
        given = conditions.physical(c_NC)
        columns = features.physical(x_ND, Given(given)) | given
        for name, expression in self.expressions.items():
            columns[name] = expression.rows(columns, torch, len(x_ND))
        return torch.cat([columns[name].reshape(len(x_ND), -1) for name in self.expressions], dim=-1)
