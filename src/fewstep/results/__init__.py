"""Results: described tables, checked rows, Parquet files that two workflows may share.

`EVALUATIONS.new_row(...)` makes a row, `upsert(path, rows)` files it, `read(path)`
gives a pandas frame, `summarize(rows)` the JSON of one evaluation, `verdict(...)` the
comparison with a published value.

Names are loaded when they are used: whoever writes one table depends on no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep._lazy import lazy

if TYPE_CHECKING:
    from fewstep.results.columns import Column, Table
    from fewstep.results.comparisons import PUBLISHED, compare
    from fewstep.results.evaluations import EVALUATIONS, is_inception
    from fewstep.results.failures import FailedCell, failed_cells, file_failures
    from fewstep.results.flows import (
        STRAIGHTNESS,
        TRAJECTORIES,
        straightness_rows,
        trajectory_rows,
    )
    from fewstep.results.measured import BLOCKS, CONVERGENCE, STRATEGIES, TIMING
    from fewstep.results.parquet import arrow_schema, read_rows, write_rows
    from fewstep.results.store import Change, read, upsert
    from fewstep.results.summary import sampler_order, spread, summarize
    from fewstep.results.tables import TABLES
    from fewstep.results.training import TRAINING
    from fewstep.results.verdicts import VERDICTS, Verdict, agreement, verdict

_HOMES = {
    "BLOCKS": "measured",
    "CONVERGENCE": "measured",
    "EVALUATIONS": "evaluations",
    "FailedCell": "failures",
    "PUBLISHED": "comparisons",
    "STRAIGHTNESS": "flows",
    "STRATEGIES": "measured",
    "TABLES": "tables",
    "TIMING": "measured",
    "TRAINING": "training",
    "TRAJECTORIES": "flows",
    "VERDICTS": "verdicts",
    "Change": "store",
    "Column": "columns",
    "Table": "columns",
    "Verdict": "verdicts",
    "agreement": "verdicts",
    "arrow_schema": "parquet",
    "compare": "comparisons",
    "failed_cells": "failures",
    "file_failures": "failures",
    "is_inception": "evaluations",
    "read": "store",
    "read_rows": "parquet",
    "sampler_order": "summary",
    "spread": "summary",
    "straightness_rows": "flows",
    "summarize": "summary",
    "trajectory_rows": "flows",
    "upsert": "store",
    "verdict": "verdicts",
    "write_rows": "parquet",
}

__all__ = [
    "BLOCKS",
    "CONVERGENCE",
    "EVALUATIONS",
    "PUBLISHED",
    "STRAIGHTNESS",
    "STRATEGIES",
    "TABLES",
    "TIMING",
    "TRAINING",
    "TRAJECTORIES",
    "VERDICTS",
    "Change",
    "Column",
    "FailedCell",
    "Table",
    "Verdict",
    "agreement",
    "arrow_schema",
    "compare",
    "failed_cells",
    "file_failures",
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

__getattr__ = lazy(__name__, _HOMES)
