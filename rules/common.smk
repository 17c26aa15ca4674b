# The checked configuration; what the rules ask of it is in fewstep/graph.py.
import gc
import sys
from pathlib import Path

from fewstep.errors import UserError
from fewstep.failures import file_failed_run
from fewstep.graceful import stop_without_deadlock
from fewstep.graph import (
    Graph,
    as_json,
    check_command,
    code,
    one_of,
    settle_signatures,
    use_this_python,
)

# Next to nothing that a graph of jobs is built of is garbage: looking for some took a
# fifth of the time to the first of 2,500 jobs.
gc.freeze()
gc.set_threshold(500_000)

use_this_python()
try:
    GRAPH = Graph(
        Path(workflow.basedir),
        workflow.config_settings.configfiles or (),
        workflow.config_settings.config,
    )
    check_command(GRAPH, sys.argv)
except UserError as error:
    # A user's mistake is one line, not Snakemake's report of an exception.
    sys.exit(f"fewstep: {error}")

ALL_CORES = workflow.cores or 1

DEMO = GRAPH.demo()


def asks(kind, name, gpu=True, share=lambda w: 1.0):
    """Runtime, memory and GPUs of a kind of job (`GRAPH.ask`), estimated.

    `name` is made of the wildcards; of work that several jobs do together a job has
    this share.
    """

    def one(key):
        def asked(wildcards, attempt):
            whose = name.format(**dict(wildcards.items()))
            # The estimate may have been the reason why the last attempt failed.
            share_of = share(wildcards) * attempt
            return getattr(GRAPH.ask(kind, whose, share=share_of), key)

        return asked

    keys = ("runtime", "mem_mb", *(("gpu", "gpu_model") if gpu else ()))
    return {key: one(key) for key in keys}


def report_of_all():
    """What the page says, and what keeps the rest from starting: looked up now."""
    from fewstep.doctor import obstacles

    known = GRAPH.report(GRAPH.experiments, "snakemake report")
    return {**known, "blocked": obstacles(GRAPH)}
