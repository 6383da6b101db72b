"""Lessons of the literature, computed anew in a minute each: what GANs' losses do, in numbers with errors.

A lesson computes and never draws; its figure is in kantor.report.lessons, its page in docs/lessons.
"""

from collections.abc import Callable

from kantor.lessons import bias, clipping, quality, slopes, vanishing
from kantor.lessons.base import Result

LESSONS: dict[str, Callable[[], Result]] = {
    "bias": bias.run,
    "clipping": clipping.run,
    "quality": quality.run,
    "slopes": slopes.run,
    "vanishing": vanishing.run,
}
