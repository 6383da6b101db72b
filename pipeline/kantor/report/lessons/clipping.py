"""The figure of the lesson `clipping`."""

import numpy as np

from kantor.lessons.clipping import MODES, RADIUS, Clipping
from kantor.report.figures import _DASHES, Picture, _figure, _picture, colour


def draw(result: Clipping) -> Picture:
    """Contours of the critics' values of the first seed with the modes, and the histograms of their weights."""
    angle = 2 * np.pi * np.arange(MODES) / MODES
    with _figure(10.0, 3.5) as figure:
        *surfaces, histogram = figure.subplots(1, 1 + len(result.surfaces), width_ratios=(1, 1, 1.3))
        for axes, (name, values) in zip(surfaces, result.surfaces.items(), strict=True):
            axes.contour(result.axis, result.axis, values, levels=14, cmap="cividis", linewidths=1.0)
            axes.plot(RADIUS * np.cos(angle), RADIUS * np.sin(angle), "o", color=colour(1), markersize=3)
            axes.set_aspect("equal")
            axes.set_title(f"{name} critic, first seed")
            axes.set_xlabel("x")
            axes.set_ylabel("y")
        for number, (name, weights) in enumerate(result.weights.items()):
            scaled = weights / np.abs(weights).max()
            counts, edges = np.histogram(scaled, bins=50, range=(-1, 1))
            histogram.stairs(
                counts / counts.sum(), edges, color=colour(number), linestyle=_DASHES[number], lw=1.3,
                label=f"{name}: largest {np.abs(weights).max():.2g}",
            )  # fmt: skip
        histogram.set_yscale("log")
        histogram.set_ylim(top=3)
        histogram.set_xlabel("weight / largest weight")
        histogram.set_ylabel("fraction per bin, all seeds")
        histogram.legend(loc="upper center")
        return _picture(
            figure, "Contours of a clipped and of a penalised critic, and the distribution of their weights."
        )
