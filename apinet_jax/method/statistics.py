"""How sure an estimate is."""

import math
from typing import NamedTuple

_TWO_SIDED_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


class Interval(NamedTuple):
    """A 95 % confidence interval.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


def wilson_interval(successes: int, trials: int) -> Interval:
    """Return the 95 % score interval of a proportion (Wilson 1927).

    It stays within [0, 1] and is not empty at 0 % and 100 %, unlike the normal approximation.
    Without any trial it is [0, 1].

    Raises:
        ValueError: If there are more successes than trials, or a number is negative.

    Examples:
        >>> low, high = wilson_interval(90, 100)
        >>> print(f"{low:.3f} to {high:.3f}")
        0.826 to 0.945
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return Interval(0.0, 1.0)
    share, squared = successes / trials, _TWO_SIDED_95**2
    scale = 1 + squared / trials
    centre = (share + squared / (2 * trials)) / scale
    half = _TWO_SIDED_95 * math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    # Rounding may not exclude the ends themselves.
    low = 0.0 if successes == 0 else centre - half / scale
    return Interval(low, 1.0 if successes == trials else centre + half / scale)
