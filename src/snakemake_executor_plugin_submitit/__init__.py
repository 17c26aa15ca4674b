"""Snakemake executor plugin: jobs go through submitit to SLURM, or run here.

`snakemake --executor submitit` submits every job as a checkpointable callable: on
preemption, time limit or node failure it saves, goes back into the queue and goes on.
Snakemake imports every plugin at every start, nested ones too, so nothing heavy is
imported here.
"""

from __future__ import annotations

from snakemake_interface_executor_plugins.settings import CommonSettings

from snakemake_executor_plugin_submitit.executor import Executor
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    # The environment travels by itself; in the command line tokens would end in logs.
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=1,
)
