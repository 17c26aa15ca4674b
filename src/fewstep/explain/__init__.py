"""`fewstep explain`: what would run, and why, in words.

The plan is Snakemake's own, of a dry run in this process; its record of the settings
behind every file is compared with the present ones. Nothing runs, and results stay
as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep._lazy import lazy

if TYPE_CHECKING:
    from fewstep.explain.grouping import Explanation
    from fewstep.explain.plan import explain
    from fewstep.explain.text import show

__all__ = ["Explanation", "explain", "show"]

__getattr__ = lazy(
    __name__, {"Explanation": "grouping", "explain": "plan", "show": "text"}
)
