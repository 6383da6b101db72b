"""The figure of the lesson `bias`."""

from matplotlib.axes import Axes

from kantor.lessons.bias import START, TRUTHS, Bias
from kantor.report.figures import _DASHES, _GREY, Picture, _figure, _picture, colour


def draw(result: Bias) -> Picture:
    """Expected losses, their minima by batch size, gradient descent, and the lifetime's minima by batch size."""
    with _figure(9.0, 6.2) as figure:
        (losses, minima), (descent, lifetimes) = figure.subplots(2, 2)
        _losses(losses, result)
        _minima(minima, result)
        _descent(descent, result)
        _lifetimes(lifetimes, result)
        return _picture(
            figure,
            "Expected sample Wasserstein losses of a Bernoulli distribution and their minima by batch size, gradient "
            "descent from batches of one, and the minima of losses of a lifetime by batch size.",
        )


def _losses(axes: Axes, result: Bias) -> None:
    for number, (m, values) in enumerate(result.losses.items()):
        style = {"color": colour(number), "linestyle": _DASHES[number]}
        axes.plot(result.theta, values, label=f"m = {m}", **style)
        axes.plot(result.theta[values.argmin()], values.min(), "o", color=colour(number), markersize=5)
    axes.axvline(TRUTHS[0], color=_GREY, lw=0.8)
    axes.set_title("dot: minimum; grey line: θ* = 0.6")
    axes.set_xlabel("θ")
    axes.set_ylabel("expected sample W₁")
    axes.legend()


def _minima(axes: Axes, result: Bias) -> None:
    for number, (truth, found) in enumerate(result.minima.items()):
        axes.axhline(truth, color=_GREY, lw=0.8)
        axes.plot(
            result.sizes, found, marker="o", markersize=3, color=colour(number), linestyle=_DASHES[number],
            label=f"θ* = {truth}",
        )  # fmt: skip
    axes.set_title("Bernoulli; grey: θ*, where Cramér's minimum is for every m")
    axes.set_ylabel("θ of least expected sample W₁")
    _sizes(axes)


def _descent(axes: Axes, result: Bias) -> None:
    for number, each in enumerate(result.descents):
        axes.plot(
            each.updates, each.mean, color=colour(number), linestyle=_DASHES[number],
            label=f"{each.loss}, θ* = {each.truth}",
        )  # fmt: skip
        axes.fill_between(
            each.updates, each.mean - each.deviation, each.mean + each.deviation, color=colour(number), alpha=0.15, lw=0
        )
    for truth in result.minima:
        axes.axhline(truth, color=_GREY, lw=0.8)
    axes.set_title(f"descent from θ = {START}, batches of one; band: std. deviation")
    axes.set_xlabel("updates")
    axes.set_ylabel("θ")
    axes.legend(loc=(0.55, 0.35))


def _lifetimes(axes: Axes, result: Bias) -> None:
    for number, (loss, found) in enumerate(result.lifetimes.items()):
        axes.plot(
            result.pairs, found, marker="o", markersize=3, color=colour(number), linestyle=_DASHES[number], label=loss
        )
    axes.set_title("exponential decays, τ* = 1")
    axes.set_ylabel("τ of least expected loss [τ*]")
    _sizes(axes)


def _sizes(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch size m")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(loc="lower right")
