"""The figure of the lesson `vanishing`."""

import numpy as np

from kantor.lessons.vanishing import Vanishing
from kantor.report.figures import _DASHES, Picture, _figure, _picture, colour


def draw(result: Vanishing) -> Picture:
    """Norms of the generator's gradient against the critic's updates: geometric means of seeds, band: least to most."""
    with _figure(5.6, 3.6) as figure:
        axes = figure.subplots()
        for number, (name, norms) in enumerate(result.norms.items()):
            style = {"color": colour(number), "linestyle": _DASHES[number]}
            axes.plot(result.updates, np.exp(np.log(norms).mean(axis=0)), label=name, **style)
            axes.fill_between(
                result.updates, norms.min(axis=0), norms.max(axis=0), color=colour(number), alpha=0.2, lw=0
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("updates of the critic, generator standing still")
        axes.set_ylabel("norm of the generator's gradient")
        axes.legend()
        return _picture(figure, "Norm of the generator's gradient while critics learn, for three losses.")
