"""The figure of the lesson `quality`."""

from matplotlib.ticker import NullLocator

from kantor.lessons.quality import Quality
from kantor.report.figures import _DASHES, _INK, Picture, _figure, _picture, colour


def draw(result: Quality) -> Picture:
    """The critic's distance against steps with the energy distance beside it, first seed; and one against the other."""
    with _figure(9.0, 5.6) as figure:
        grid = figure.subplots(2, len(result.distances))
        for number, name in enumerate(result.distances):
            distances, qualities = result.distances[name], result.qualities[name]
            top, below = grid[:, number]
            top.plot(result.steps, distances[0], color=colour(number), linestyle=_DASHES[number])
            top.set_title(f"{name}, first seed")
            top.set_xlabel("generator updates")
            top.set_ylabel("critic's distance (coloured)")
            top.locator_params(axis="y", nbins=5)
            top.set_ylim(0, 1.1 * distances[0].max())
            other = top.twinx()
            other.spines.right.set_visible(True)
            other.plot(result.steps, qualities[0], color=_INK, lw=0.9)
            other.set_ylabel("energy distance (black)")
            other.locator_params(axis="y", nbins=5)
            other.set_ylim(0)
            for seed, (distance, quality) in enumerate(zip(distances, qualities, strict=True)):
                below.plot(quality, distance, ".", markersize=3.5, color=colour(seed), label=f"seed {seed + 1}")
            below.set_xlabel("energy distance, generated to held-out")
            below.set_xscale("log")
            below.xaxis.set_minor_locator(NullLocator())
            below.set_ylabel("critic's distance")
            below.set_ylim(0)
        grid[1, 0].legend(loc="upper left", handletextpad=0.1)
        return _picture(
            figure,
            "The critic's distance and the energy distance to held-out events while training, of a Wasserstein GAN and "
            "of a minimax GAN.",
        )
