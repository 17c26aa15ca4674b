"""Snakemake logger plugin: one line a job, and how far the running ones are.

`snakemake --logger fewstep` shows on a terminal a total, a bar for each running job
(from the last line of `fewstep.progress` in its log), and one line for each that ended;
without a terminal one plain line a job. A failed job shows the end of its log and the
command that repeats it alone. Snakemake imports every plugin at every start, nested
ones too, so nothing heavy is imported here.
"""

from __future__ import annotations

from snakemake_logger_plugin_fewstep.handler import LogHandler

__all__ = ["LogHandler"]
