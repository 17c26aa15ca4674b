"""Results: described tables, checked rows, Parquet files that two workflows may share.

`EVALUATIONS.new_row(...)` makes a row, `upsert(path, rows)` files it, `read(path)`
gives a pandas frame, `summarize(rows)` the JSON of one evaluation, `verdict(...)` the
comparison with a published value.
"""

from fewstep.results.columns import Column, Table
from fewstep.results.evaluations import EVALUATIONS, is_inception
from fewstep.results.flows import (
    STRAIGHTNESS,
    TRAJECTORIES,
    straightness_rows,
    trajectory_rows,
)
from fewstep.results.store import (
    Change,
    arrow_schema,
    read,
    read_rows,
    upsert,
    write_rows,
)
from fewstep.results.summary import sampler_order, spread, summarize
from fewstep.results.tables import (
    BLOCKS,
    CONVERGENCE,
    STRATEGIES,
    TABLES,
    TIMING,
    TRAINING,
)
from fewstep.results.verdicts import VERDICTS, Verdict, agreement, verdict

__all__ = [
    "BLOCKS",
    "CONVERGENCE",
    "EVALUATIONS",
    "STRAIGHTNESS",
    "STRATEGIES",
    "TABLES",
    "TIMING",
    "TRAINING",
    "TRAJECTORIES",
    "VERDICTS",
    "Change",
    "Column",
    "Table",
    "Verdict",
    "agreement",
    "arrow_schema",
    "is_inception",
    "read",
    "read_rows",
    "sampler_order",
    "spread",
    "straightness_rows",
    "summarize",
    "trajectory_rows",
    "upsert",
    "verdict",
    "write_rows",
]
