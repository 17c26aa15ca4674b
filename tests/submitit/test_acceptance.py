"""Snakemake's own test of executor plugins, on the clusters that need no SLURM."""

from __future__ import annotations

import pytest
from snakemake.common.tests import TestWorkflowsLocalStorageBase
from snakemake.settings.types import RemoteExecutionSettings, ResourceSettings

from snakemake_executor_plugin_submitit import ExecutorSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tidy")]


class Workflows(TestWorkflowsLocalStorageBase):
    """What all clusters share."""

    __test__ = False

    def get_executor(self) -> str:
        return "submitit"

    def get_resource_settings(self) -> ResourceSettings:
        """The executor wants a time limit, which these workflows have not."""
        return ResourceSettings(default_resources={"runtime": 5})

    def get_remote_execution_settings(self) -> RemoteExecutionSettings:
        """Asking without a pause would take the jobs' processor."""
        return RemoteExecutionSettings(seconds_between_status_checks=0.3)


class TestLocalCluster(Workflows):
    """Jobs as processes of this machine."""

    __test__ = True

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="local")


class TestDebugCluster(Workflows):
    """Jobs in the submitting process, one after the other."""

    __test__ = True
    # Groups are the same to it, and each nested Snakemake takes its seconds.
    test_group_workflow = None

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="debug")
