"""How many seeds a difference takes, and which difference seeds can tell: sizes of the paired t-test, by the noncentral
t distribution.
"""

from __future__ import annotations

import math

from scipy import optimize, stats

from kdbench.board.statistics.intervals import LEAST_SEEDS, SURE

POWER = 0.8  # the chance to tell a difference that is there
MOST = 1_000_000  # seeds nobody will run


def power(n: int, effect: float, alpha: float = SURE) -> float:
    """Power of the two-sided paired t-test of `n` >= 2 differences whose mean is `effect` standard deviations."""
    freedom, noncentrality = n - 1, abs(effect) * math.sqrt(n)
    edge = stats.t.isf(alpha / 2, freedom)
    other = float(stats.nct.cdf(-edge, freedom, noncentrality))  # NaN where it is too small to be told from 0
    return float(stats.nct.sf(edge, freedom, noncentrality)) + (0.0 if math.isnan(other) else other)


def detectable(n: int, std: float, tests: int = 1, wanted: float = POWER, alpha: float = SURE) -> float:
    """The smallest difference that `n` units see with the chance `wanted`, if differences spread by `std` and p-values
    are corrected for `tests` tests (Bonferroni's step, which the first of Holm's is); NaN if they see none.
    """
    if n < LEAST_SEEDS or not std > 0:
        return math.nan
    level = alpha / max(tests, 1)
    edge = float(stats.t.isf(level / 2, n - 1)) / math.sqrt(n)  # seen with a chance of about one half
    return std * float(optimize.brentq(lambda effect: power(n, effect, level) - wanted, 0.1 * edge, 10 * edge))


def seeds_needed(
    difference: float, std: float, wanted: float = POWER, alpha: float = SURE, tests: int = 1, units: int = 1
) -> float:
    """The fewest seeds that see `difference` with the chance `wanted`, if differences spread by `std`: three or more.

    Args:
        tests: how many tests p-values are corrected for.
        units: how many differences a seed brings that repeat each other independently.

    Returns:
        Infinity if there is no difference to see, NaN if no spread is known.
    """
    if difference == 0:
        return math.inf
    if math.isnan(difference) or not std > 0:
        return math.nan
    effect, level = difference / std, alpha / max(tests, 1)

    def enough(seeds: int) -> bool:
        return power(seeds * units, effect, level) >= wanted

    few, many = LEAST_SEEDS - 1, LEAST_SEEDS  # `few` is too few, `many` is to be enough
    while not enough(many):
        few, many = many, 2 * many
        if many > MOST:
            return math.inf
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many
