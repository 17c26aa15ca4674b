"""Every table by name."""

from __future__ import annotations

from fewstep.results.columns import Table
from fewstep.results.comparisons import PUBLISHED
from fewstep.results.evaluations import EVALUATIONS
from fewstep.results.flows import STRAIGHTNESS, TRAJECTORIES
from fewstep.results.measured import BLOCKS, CONVERGENCE, STRATEGIES, TIMING
from fewstep.results.training import TRAINING

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        EVALUATIONS,
        PUBLISHED,
        BLOCKS,
        STRATEGIES,
        CONVERGENCE,
        STRAIGHTNESS,
        TRAJECTORIES,
        TRAINING,
        TIMING,
    )
}
"""Every table by name."""
