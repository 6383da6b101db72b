"""Numbers as people write them: the uncertainty with two digits, the value with as many places."""

import math
from collections.abc import Iterable

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def with_error(value: float, error: float, power: int | None = None) -> str:
    """Such as 0.0521 ± 0.0012, or (2.1 ± 1.8)·10⁻⁴; with the power of ten that is given, or a fitting one."""
    if not math.isfinite(value):
        return "–"
    power = common_power([value, error]) if power is None else power
    value, error = value / 10**power, error / 10**power
    places = _places(error if math.isfinite(error) and error > 0 else value)
    text = f"{value:.{places}f}"
    if math.isfinite(error) and error > 0:
        text += f" ± {error:.{places}f}"
    text = text.replace("-", "−")
    return text if power == 0 else f"({text})·10{str(power).translate(_SUPERSCRIPTS)}"


def percent(value: float, low: float, high: float) -> str:
    """A fraction with its interval, such as 3.49 % [3.14, 3.87], or 0 % (< 0.037) where nothing was seen."""
    if not math.isfinite(value):
        return "–"
    value, low, high = 100 * value, 100 * low, 100 * high
    if value == 0 and low == 0:
        return f"0 % (< {high:.2g})" if high > 0 else "0 %"
    places = _places((high - low) / 2)
    return f"{value:.{places}f} % [{low:.{places}f}, {high:.{places}f}]"


def p_value(value: float | None) -> str:
    if value is None:
        return ""
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 10⁻⁴"


def rate(per_second: float) -> str:
    """Events per second: 1.2 million, 340 thousand, 87."""
    for size, word in ((1e6, " million"), (1e3, " thousand")):
        if per_second >= size:
            return f"{per_second / size:.3g}{word}"
    return f"{per_second:.3g}"


def common_power(numbers: Iterable[float]) -> int:
    """The power of ten to take out of numbers that are unwieldy otherwise; 0 where they are not."""
    size = max((abs(number) for number in numbers if math.isfinite(number)), default=0.0)
    if size == 0 or 1e-3 <= size < 1e5:
        return 0
    return math.floor(math.log10(size))


def _places(error: float) -> int:
    """Decimal places that show two digits."""
    return 2 if error == 0 else min(max(0, 1 - math.floor(math.log10(abs(error)))), 9)
