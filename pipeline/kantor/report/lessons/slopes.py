"""The figure of the lesson `slopes`."""

import numpy as np

from kantor.lessons.slopes import CENTRE, Slopes, discriminator
from kantor.report.figures import _DASHES, _INK, _TRUTH, Picture, _figure, _picture, colour


def draw(result: Slopes) -> Picture:
    """Values along the line, and slopes on a logarithmic axis: means of seeds with bands of their deviation."""
    x = result.x
    with _figure(9.0, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        for sign, name in ((-1, "real"), (1, "generated")):
            density = np.exp(-((x - sign * CENTRE) ** 2) / 2) / np.sqrt(2 * np.pi)
            left.fill_between(x, density, color=_TRUTH, alpha=0.8, lw=0)
            left.text(sign * CENTRE, 0.04, name, ha="center")
        for number, name in enumerate(result.values):
            style = {"color": colour(number), "linestyle": _DASHES[number]}
            values, slopes = result.values[name], result.slopes[name]
            if name != "discriminator":
                # From 1 where the real mean is to 0 at the generated one: critics have no unit of their own.
                ends = (values[:, np.abs(x - at).argmin()][:, None] for at in (CENTRE, -CENTRE))
                low, high = ends
                values = (values - low) / (high - low)
            for axes, found in ((left, values), (right, slopes)):
                mean, spread = found.mean(axis=0), found.std(axis=0)
                axes.plot(x, mean, label=name, **style)
                axes.fill_between(x, mean - spread, mean + spread, color=colour(number), alpha=0.2, lw=0)
        best = discriminator(x)
        left.plot(x, best, color=_INK, lw=0.8, linestyle=":", label="D = p / (p + q)")
        right.plot(x, 2 * CENTRE * best * (1 - best), color=_INK, lw=0.8, linestyle=":", label="of p / (p + q)")
        left.set_ylim(-0.6, 1.6)
        left.set_ylabel("D, or critic (1 at real mean, 0 at generated)")
        left.legend(loc="upper right", fontsize=8)
        right.set_yscale("log")
        right.set_ylim(1e-7, 10)
        right.set_ylabel("|slope|")
        right.legend(loc="lower center", fontsize=8)
        for axes in (left, right):
            axes.set_xlabel("x")
        return _picture(
            figure, "A discriminator and two Wasserstein critics between two Gaussians along a line, and their slopes."
        )
