"""Layers that networks are made of, besides PyTorch's own. Shapes: B and N rows, W units of a hidden layer."""

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    """x + layers(x) (He et al., arXiv:1512.03385)."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class Dropout(nn.Module):
    """Dropout whose mask belongs to the rows of an update, not to the moment of the call.

    A row has one mask in all passes of an update, as real event, as generated one and between them, so that the
    gradient penalty meets one function, and any number of ranks the same one.
    """

    def __init__(self, probability: float, width: int) -> None:
        super().__init__()
        self.probability, self.width = probability, width
        self._mask_BW: Tensor | None = None

    def draw(self, uniform_BW: Tensor) -> None:
        """The mask of the next update from uniform numbers in [0, 1)."""
        self._mask_BW = (uniform_BW >= self.probability) / (1 - self.probability)

    def forward(self, x_NW: Tensor) -> Tensor:
        """N is B, a multiple of it (real and generated rows), or half of it (the first of each pair)."""
        if not self.training:
            return x_NW
        if self._mask_BW is None:
            raise RuntimeError("no dropout mask has been drawn for this update")
        rows, drawn = len(x_NW), len(self._mask_BW)
        mask_NW = self._mask_BW[:: drawn // rows] if rows < drawn else self._mask_BW.repeat(rows // drawn, 1)
        return x_NW * mask_NW.to(x_NW.dtype)


class GroupDeviation(nn.Module):
    """Appends the standard deviation within a row's group, averaged over the W units: (B, W) -> (B, W + 1).

    Minibatch standard deviation (Karras et al., arXiv:1710.10196, section 3) in groups of consecutive rows, so that
    real rows never meet generated ones, nor one rank's rows another's.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x_BW: Tensor) -> Tensor:
        variance_GW = x_BW.unflatten(0, (-1, self.group)).var(1, correction=0)
        # The root's slope is infinite where all rows of a group agree.
        deviation_G = (variance_GW + 1e-8).sqrt().mean(-1)
        return torch.cat([x_BW, deviation_G.repeat_interleave(self.group).unsqueeze(-1)], dim=-1)
