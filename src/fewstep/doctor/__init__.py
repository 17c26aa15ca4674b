"""`fewstep doctor`: what targets will need, what is missing, and what that blocks.

It looks at files only: no network is touched, and nothing is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep._lazy import lazy

if TYPE_CHECKING:
    from fewstep.doctor.diagnosis import Diagnosis, examine, obstacles
    from fewstep.doctor.text import show

__all__ = ["Diagnosis", "examine", "obstacles", "show"]

__getattr__ = lazy(
    __name__,
    {
        "Diagnosis": "diagnosis",
        "examine": "diagnosis",
        "obstacles": "diagnosis",
        "show": "text",
    },
)
