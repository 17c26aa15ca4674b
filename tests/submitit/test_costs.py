"""The measured costs are complete."""

from __future__ import annotations

import json

from benchmarks import slurm_costs
from benchmarks.common import HERE


def test_every_number_has_its_partner_and_its_command() -> None:
    """Each says what it was measured against, how, where and when."""
    rows = json.loads((HERE / "slurm_costs.json").read_text())
    names = [name for part in slurm_costs.NAMES.values() for name in part]
    assert [row["name"] for row in rows] == names
    for row in rows:
        # All three are rounded.
        assert abs(row["ratio"] * row["value"] / row["partner_value"] - 1) < 0.02
        assert row["command"].startswith("python benchmarks/slurm_costs.py ")
        assert {"unit", "partner", "machine", "date"} <= set(row)
