"""Medians over rounds, with their intervals."""

import statistics
from collections.abc import Sequence
from math import comb

from fwp_rl.reports.statistics import CONFIDENCE, Estimate

__all__ = ["median", "shown"]


def median(values: Sequence[float]) -> Estimate:
    """The median of some rounds, and its 95 % interval by order statistics: from the k-th smallest
    value to the k-th largest, with the largest k that keeps the chance of missing the true median
    to 5 %, whatever the distribution. Fewer than 6 rounds have none."""
    n, ordered = len(values), sorted(values)
    k = 0
    # both ends miss where fewer than k values, of n coins, fall on one side
    while 2 * sum(comb(n, i) for i in range(k + 1)) <= (1 - CONFIDENCE) * 2**n:
        k += 1
    if not k:
        reason = f"no interval: {n} round{'s' if n > 1 else ''}, expected 6 or more"
        return Estimate(value=statistics.median(ordered), interval=None, reason=reason)
    return Estimate(value=statistics.median(ordered), interval=(ordered[k - 1], ordered[n - k]))


def shown(estimate: Estimate, form: str = "{:.2f}") -> str:
    """``0.91 (0.90 to 0.92)``."""
    value = form.format(estimate.value)
    if estimate.interval is None:
        return value
    low, high = (form.format(end) for end in estimate.interval)
    return f"{value} ({low} to {high})"
