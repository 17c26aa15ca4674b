"""The measured costs: complete, and the same in both of their files."""

from __future__ import annotations

import json

from benchmarks import slurm_costs


def test_the_numbers_and_their_table_agree() -> None:
    """The README's table is the one that the numbers make."""
    rows = json.loads((slurm_costs.HERE / "slurm_costs.json").read_text())
    text = (slurm_costs.HERE / "README.md").read_text()
    start, end = "<!-- slurm_costs -->\n", "\n<!-- end of slurm_costs -->"
    assert text.partition(start)[2].partition(end)[0] == slurm_costs.table(rows)


def test_every_number_has_its_partner_and_its_command() -> None:
    """Each says what it was measured against, how, where and when."""
    rows = json.loads((slurm_costs.HERE / "slurm_costs.json").read_text())
    names = [name for part in slurm_costs.NAMES.values() for name in part]
    assert [row["name"] for row in rows] == names
    for row in rows:
        # All three are rounded.
        assert abs(row["ratio"] * row["partner_value"] / row["value"] - 1) < 0.02
        assert row["command"].startswith("python benchmarks/slurm_costs.py ")
        assert {"unit", "partner", "machine", "date"} <= set(row)
