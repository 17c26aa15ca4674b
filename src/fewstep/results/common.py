"""Columns that several tables share."""

from __future__ import annotations

from fewstep.results.columns import text, time

EXPERIMENT = text("experiment", "name of the experiment", required=True)
SAMPLER = text("sampler", "name of the sampler", required=True)
ORIGIN = (
    text("checkpoint_sha256", "hash of the model's weights"),
    text("code_digest", "digest of the library code behind the row"),
    time("created_utc", "when the row was made, UTC", required=True),
)
