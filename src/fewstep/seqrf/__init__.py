"""Sequential reflow (SeqRF, arXiv 2402.06461) on rectified flows (arXiv 2209.03003).

Names are loaded when they are used, so that whoever needs one does not pay for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep._lazy import lazy

if TYPE_CHECKING:
    from fewstep.seqrf.adaptive import adaptive_edges
    from fewstep.seqrf.integration import Integration, integrate
    from fewstep.seqrf.model import NCSNpp
    from fewstep.seqrf.reflow import reflow_pairs
    from fewstep.seqrf.segments import Segments

_HOMES = {
    "Integration": "integration",
    "NCSNpp": "model",
    "Segments": "segments",
    "adaptive_edges": "adaptive",
    "integrate": "integration",
    "reflow_pairs": "reflow",
}

__all__ = [
    "Integration",
    "NCSNpp",
    "Segments",
    "adaptive_edges",
    "integrate",
    "reflow_pairs",
]

__getattr__ = lazy(__name__, _HOMES)
