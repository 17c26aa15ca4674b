"""Is our number the published one? And do two samplers' scores agree?"""

from __future__ import annotations

import math
from typing import NamedTuple

MATCHES, BETTER, WORSE = "matches", "better", "worse"
NOT_COMPARABLE, NO_PUBLISHED = "not comparable", "no published value"
VERDICTS = (MATCHES, BETTER, WORSE, NOT_COMPARABLE, NO_PUBLISHED)

RELATIVE_BAND = 0.02
"""FID of one model varies by 1 to 2 % between draws of its samples."""


class Verdict(NamedTuple):
    """A comparison's outcome, one of `VERDICTS`, and the numbers behind it."""

    verdict: str
    reason: str


def verdict(
    value: float | None,
    sd: float | None,
    published: float | None,
    n: int,
    published_n: int | None,
    protocol_ok: bool,
    *,
    metric: str = "fid",
    published_metric: str = "fid",
    published_sd: float | None = None,
    protocol_note: str = "",
    lower_is_better: bool = True,
) -> Verdict:
    """Compare a score with the published one.

    The two match when they differ by at most 2 % of the published value or two
    standard deviations (ours and, where given, the published one's, in quadrature),
    whichever is more.

    Args:
        value: our mean over seeds; None or not finite: there is none.
        sd: standard deviation over seeds; None with a single seed.
        published: the published value, None if nothing was published.
        n: images behind our value.
        published_n: images behind the published value; None if unknown.
        protocol_ok: whether both were scored in the same way.
        metric: proper name of our score.
        published_metric: proper name of the published score.
        published_sd: published standard deviation.
        protocol_note: what differs, when `protocol_ok` is False.
        lower_is_better: True for distances.
    """
    if published is None:
        return Verdict(NO_PUBLISHED, "nothing was published for this cell")
    obstacle = _obstacle(value, n, published_n, metric, published_metric)
    if not obstacle and not protocol_ok:
        obstacle = protocol_note or "scored by another protocol"
    if obstacle or value is None:
        return Verdict(NOT_COMPARABLE, obstacle)
    difference = value - published
    spread = 2 * math.hypot(sd or 0.0, published_sd or 0.0)
    band = max(RELATIVE_BAND * abs(published), spread)
    reason = _reason(difference, band)
    if sd is None:
        reason += " (one seed: our spread is unknown)"
    # The band's own edge is inside, whatever the last bit of the subtraction.
    if abs(difference) <= band * (1 + 1e-9):
        return Verdict(MATCHES, reason)
    return Verdict(BETTER if (difference < 0) == lower_is_better else WORSE, reason)


def _obstacle(
    value: float | None,
    n: int,
    published_n: int | None,
    metric: str,
    published_metric: str,
) -> str:
    """Why two scores cannot be compared at all; empty if they can."""
    if value is None or not math.isfinite(value):
        return "we have no score"
    if metric != published_metric:
        return f"ours is {metric}, the published one {published_metric}"
    if published_n is None:
        return "the published number of images is unknown"
    if n != published_n:
        return f"n = {n:,}, published with {published_n:,}"
    return ""


def _reason(difference: float, band: float) -> str:
    """The difference and the band, both to the digits that the band deserves."""
    digits = max(0, 1 - math.floor(math.log10(band))) if band > 0 else 2
    sign = "−" if difference < 0 else "+"
    return f"differs by {sign}{abs(difference):.{digits}f}, band ±{band:.{digits}f}"


def agreement(
    mean: float | None, sd: float | None, other: float | None, other_sd: float | None
) -> Verdict:
    """Compare two of our own scores of the same protocol and n; lower is better.

    Same band as `verdict`, around `other`. Both spreads are needed to call one better
    or worse: with one seed a difference outside 2 % is "not comparable".
    """
    if mean is None or other is None:
        return Verdict(NOT_COMPARABLE, "one of the two has no score")
    difference = mean - other
    spread = 2 * math.hypot(sd or 0.0, other_sd or 0.0)
    band = max(RELATIVE_BAND * abs(other), spread)
    reason = _reason(difference, band)
    if abs(difference) <= band * (1 + 1e-9):
        return Verdict(MATCHES, reason)
    if sd is None or other_sd is None:
        return Verdict(NOT_COMPARABLE, f"{reason}, but one seed has no spread")
    return Verdict(BETTER if difference < 0 else WORSE, reason)
